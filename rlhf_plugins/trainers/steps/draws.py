"""The order of training, drawn batch by batch by a sampler component.

The next batch may depend on the losses of earlier ones, so a batch is drawn only when the data loader asks for it. Data
loaders ask early: accelerate's asks for a batch before it returns the one before, and with gradient accumulation the
Trainer collects all batches of a step before it trains on the first. So the first batch of a step is drawn without the
losses of the step before, its other batches with them. Each worker process (`dataloader_num_workers`) draws
`dataloader_prefetch_factor` more batches in advance.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Sampler as TorchSampler

from rlhf_plugins.contract.interfaces import Sampler
from rlhf_plugins.contract.records import SamplerState
from rlhf_plugins.errors import DataError


@dataclass(frozen=True)
class Examples:
    """n examples as they are known before training, each (n,)."""

    length: Sequence[int]  # tokens
    difficulty: Sequence[float | None]  # None or NaN where it is unknown
    topic: Sequence[Hashable]  # None is a topic of its own


class Draws(TorchSampler[int]):
    """n examples an epoch, as many as there are, drawn by a component; the last ones of an epoch may be fewer.

    The same seed, component and observations give the same draws, epoch by epoch.

    Args:
        sampler: draws them.
        examples: what the sampler may know of them.
        at_once: drawn together, those that an optimizer step learns from; the data loader must not drop the last batch.
        planned: examples that the whole training will draw; progress is measured against them.
        seed: the seed of the draws.

    Raises:
        DataError: the columns of `examples` differ in length, or a difficulty is infinite.
    """

    def __init__(self, sampler: Sampler, examples: Examples, at_once: int, planned: int, seed: int) -> None:
        columns = {name: len(values) for name, values in vars(examples).items()}
        if len(set(columns.values())) != 1:
            raise DataError(f"examples of unequal number: {columns}")
        self._sampler = sampler
        self._length = _frozen(np.array(examples.length, dtype=int))
        self._difficulty = _frozen(standardised(examples.difficulty))
        self._topic = _frozen(_codes(examples.topic))
        self._loss = np.full(len(self._length), np.nan)
        self._at_once, self._planned, self._seed = at_once, planned, seed
        self._epoch = 0
        self._drawn_in = 0  # the epoch of the draws so far
        self._drawn: list[int] = []
        self._rng = np.random.default_rng([seed, 0])
        self._again = False  # whether the next iteration begins with these draws

    def __len__(self) -> int:
        return len(self._length)

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration draws, from 0. The Trainer calls it; otherwise epochs are counted."""
        self._epoch = epoch

    def observe(self, rows: Sequence[int], losses: Sequence[float]) -> None:
        """Stores the losses of the examples `rows`, in their order, except those that are not finite."""
        values = np.asarray(losses, dtype=float)
        finite = np.isfinite(values)
        self._loss[np.asarray(rows, dtype=int)[finite]] = values[finite]

    def __iter__(self) -> Iterator[int]:
        """One epoch. Raises PluginError when the component fails or answers anything but rows."""
        epoch, self._epoch = self._epoch, self._epoch + 1
        if not self._again or epoch != self._drawn_in:
            self._drawn_in, self._drawn, self._rng = epoch, [], np.random.default_rng([self._seed, epoch])
        self._again = False
        remaining = np.ones(len(self), dtype=bool)
        remaining[self._drawn] = False
        yield from list(self._drawn)
        for start in range(len(self._drawn), len(self), self._at_once):
            size = min(self._at_once, len(self) - start)
            rows = self._draw(size, remaining, epoch * len(self) + start)
            remaining[rows] = False
            self._drawn += rows.tolist()
            yield from rows.tolist()

    def state_dict(self) -> dict[str, Any]:
        """What was drawn in this epoch and what was observed, so that the same draws follow."""
        own = self._sampler.state_dict() if hasattr(self._sampler, "state_dict") else None
        rng = self._rng.bit_generator.state
        return {"epoch": self._drawn_in, "drawn": [*self._drawn], "rng": rng, "loss": self._loss.copy(), "own": own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave; the next iteration of its epoch begins with what was drawn in it already."""
        self._drawn_in, self._drawn, self._again = state["epoch"], [*state["drawn"]], True
        self._rng.bit_generator.state = state["rng"]
        self._loss = state["loss"]
        if state["own"] is not None:
            self._sampler.load_state_dict(state["own"])  # type: ignore[attr-defined]

    def _draw(self, size: int, remaining: np.ndarray, before: int) -> np.ndarray:
        draw = SamplerState(
            size=size,
            remaining=_frozen(remaining.copy()),
            progress=min(1.0, before / max(1, self._planned)),
            length=self._length,
            difficulty=self._difficulty,
            topic=self._topic,
            loss=_frozen(self._loss.copy()),
            rng=self._rng,
        )
        return self._sampler(draw)


def standardised(difficulty: Sequence[float | None]) -> np.ndarray:
    """Difficulties with mean 0 and standard deviation 1, (n,): 0 where missing, and everywhere if all are equal.

    Raises:
        DataError: one is infinite.
    """
    values = np.asarray(difficulty, dtype=float)  # None becomes NaN
    if infinite := np.flatnonzero(np.isinf(values)).tolist():
        raise DataError(f"the difficulty of example {infinite[0]} is {values[infinite[0]]}, not a finite number")
    known = values[~np.isnan(values)]
    if not len(known) or known.min() == known.max():
        return np.zeros(len(values))
    largest = np.abs(known).max()  # divided by first, so that no square overflows
    known, values = known / largest, values / largest
    return np.nan_to_num((values - known.mean()) / known.std(), nan=0.0)


def _codes(topics: Sequence[Hashable]) -> np.ndarray:
    """A number for each topic, from 0 in order of appearance, (n,)."""
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(topic, len(codes)) for topic in topics], dtype=int)


def _frozen(array: np.ndarray) -> np.ndarray:
    """The array, made read-only."""
    array.flags.writeable = False
    return array
