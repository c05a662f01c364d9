"""Samplers: which examples a reward model sees next.

A batch never holds an example twice. `Shuffled`, `LengthGrouped` and `Curriculum` draw from what remains of the epoch,
so that it shows every example once; `HardMining` and `Dynamic` draw what is hard again, and an epoch may leave out what
is easy. Each costs O(n) a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import Sampler

if TYPE_CHECKING:
    from rlhf_plugins.contract.records import SamplerState


@dataclass(frozen=True)
class Shuffled(Sampler):
    """Uniform, without replacement within an epoch."""

    def __call__(self, state: SamplerState) -> np.ndarray:  # (size,)
        """Every set of `size` remaining examples is equally likely."""
        return state.rng.permutation(np.flatnonzero(state.remaining))[: state.size]


@dataclass(frozen=True)
class LengthGrouped(Sampler):
    """A random remaining example and those remaining that are nearest to it in length: little padding.

    Every example comes once an epoch. Ties in length are broken at random.
    """

    def __call__(self, state: SamplerState) -> np.ndarray:  # (size,)
        """The `size` smallest |length_i - length_j|, with j uniform among the remaining."""
        rows = state.rng.permutation(np.flatnonzero(state.remaining))
        length = state.length[rows].astype(float)  # unsigned lengths would wrap below 0
        return rows[_lowest(np.abs(length - length[0]), state.size)]


@dataclass(frozen=True)
class Curriculum(Sampler, needs={"difficulty"}):
    """p(i) = exp(alpha difficulty_i) / sum_j exp(alpha difficulty_j) over the remaining, without replacement.

    Easy before hard (Bengio et al. 2009): alpha goes from `start` to `end` in proportion to the share of the training
    done, so that with the defaults the easy examples open the first epoch and the hard ones the last. The sample is
    exact (Gumbel-top-k, Kool et al. 2019). Difficulty is in standard deviations; where all are equal, the draw is
    uniform.
    """

    start: Annotated[float, Field(description="alpha when training begins; below 0 prefers easy examples")] = -2.0
    end: Annotated[float, Field(description="alpha when training ends; above 0 prefers hard examples")] = 2.0

    def __call__(self, state: SamplerState) -> np.ndarray:  # (size,)
        """Examples drawn one after the other, each in proportion to p among those that are left."""
        alpha = (1 - state.progress) * self.start + state.progress * self.end
        return _proportional(alpha * state.difficulty, state.remaining, state)


@dataclass(frozen=True)
class HardMining(Sampler):
    """p(i) = exp(loss_i / temperature) / sum_j exp(loss_j / temperature) over all examples, drawn or not.

    The loss is the one when the example was last trained on. An example without a finite loss counts as hard as the
    hardest, so that sooner or later each is tried, as new transitions are in prioritized replay (Schaul et al. 2016).
    Their correction for the changed distribution is not made: easy examples weigh less in what is learned.
    """

    temperature: Annotated[float, Field(gt=0, description="loss that makes an example e times as likely")] = 1.0

    def __call__(self, state: SamplerState) -> np.ndarray:  # (size,)
        """Without replacement within the batch, with replacement from one batch to the next."""
        return _proportional(_hardness(state.loss, self.temperature), np.ones(len(state.loss), dtype=bool), state)


@dataclass(frozen=True)
class Dynamic(Sampler, needs={"topic"}):
    """Topics that the model does badly on come more often: p(topic) proportional to exp(its mean loss / temperature).

    The mean is over the losses of the topic's examples when last trained on; a topic without one counts as hard as the
    hardest. Within a topic the draw is uniform over what remains of it in the epoch, and over all of it once nothing
    remains.
    """

    temperature: Annotated[float, Field(gt=0, description="mean loss that makes a topic e times as likely")] = 0.25

    def __call__(self, state: SamplerState) -> np.ndarray:  # (size,)
        """Without replacement within the batch: a topic of few examples fills only so many places of it."""
        topic = state.topic
        exhausted = np.bincount(topic, state.remaining) == 0  # (topics,)
        allowed = state.remaining | exhausted[topic]
        hardness = _hardness(_topic_means(state.loss, topic), self.temperature)  # (topics,)
        share = np.bincount(topic, allowed)  # examples that a topic's probability is divided among
        return _proportional(hardness[topic] - np.log(share[topic]), allowed, state)


def _topic_means(loss: np.ndarray, topic: np.ndarray) -> np.ndarray:  # (topics,)
    """Mean of the finite losses of each topic, NaN where it has none."""
    seen, topics = np.isfinite(loss), topic.max() + 1
    with np.errstate(invalid="ignore"):
        return np.bincount(topic[seen], loss[seen], topics) / np.bincount(topic[seen], minlength=topics)


def _hardness(loss: np.ndarray, temperature: float) -> np.ndarray:
    """loss / temperature, shifted to a highest value of 0; 0 where the loss is not finite."""
    seen = np.isfinite(loss)
    hardness = np.zeros(len(loss))
    with np.errstate(over="ignore"):
        hardness[seen] = (loss[seen] - loss[seen].max(initial=-np.inf)) / temperature
    return hardness


def _proportional(logit: np.ndarray, allowed: np.ndarray, state: SamplerState) -> np.ndarray:  # (size,)
    """Drawn one after the other in proportion to exp(logit), without replacement (Gumbel-top-k, Kool et al. 2019)."""
    rows = np.flatnonzero(allowed)
    return rows[_lowest(-logit[rows] - state.rng.gumbel(size=len(rows)), state.size)]


def _lowest(values: np.ndarray, size: int) -> np.ndarray:  # (size,)
    """The places of the `size` lowest values, in no order."""
    return np.argpartition(values, size - 1)[:size]


@hookimpl
def register_sampler() -> dict[str, type]:
    """The bundled samplers."""
    return {
        "shuffled": Shuffled,
        "length_grouped": LengthGrouped,
        "curriculum": Curriculum,
        "hard_mining": HardMining,
        "dynamic": Dynamic,
    }
