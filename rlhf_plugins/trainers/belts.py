"""What stops a training that has gone wrong, and says how. It knows limits and numbers, not what made them.

Each belt says what happened, at which step, what to try, and where the responses at fault were written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from torch import Tensor

from rlhf_plugins.arithmetic import masked
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.errors import RunError
from rlhf_plugins.trainers.episodes import Episodes
from rlhf_plugins.trainers.settings import Belts
from rlhf_plugins.trainers.watch import rows, write

FAULTS = "belts.jsonl"
MOST = 16  # responses that a belt writes down


class Guard:
    """The belts of one training.

    Args:
        limits: when each closes.
        folder: where `belts.jsonl` is written.
        step: says which step the training is at.
    """

    def __init__(self, limits: Belts, folder: Path, step: Callable[[], int]) -> None:
        self._limits, self._file, self._step = limits, folder / FAULTS, step
        self._equal = 0  # rollouts in a row
        self._entropy: float | None = None  # of the first rollout
        self._largest = 1.0  # sum of rewards to come so far

    def rollout(self, seen: Episodes) -> bool:
        """Whether a rollout is to be trained on. Raises RunError when the training has to stop."""
        self._kl(seen)
        self._entropies(seen)
        self._values(seen)
        return self._differ(seen)

    def loss(self, loss: Tensor, seen: Episodes, picked: Sequence[int]) -> None:
        """Raises RunError when a piece's loss, a scalar, is not finite; `picked` are its responses."""
        if not loss.isfinite():
            what = f"the loss became {loss.item()}: try a smaller learning_rate or max_grad_norm"
            numbers = {"reward": seen.rewards, "advantage": seen.advantages.sum(1)}
            self._stop("loss", what, seen.samples, picked, **numbers)

    def _differ(self, seen: Episodes) -> bool:
        scores = seen.scores
        self._equal = 0 if seen.by_token or len(scores) == 1 or scores.max() > scores.min() else self._equal + 1
        if self._equal > self._limits.equal_rewards:
            what = (
                f"all {len(scores)} rewards are {scores[0].item():.4g}, for {self._equal} rollouts in a row: "
                "nothing can be learned from them; look at the reward, or sample at a higher temperature "
                "(belts.equal_rewards allows more)"
            )
            self._stop("equal_rewards", what, seen.samples, range(len(scores)), reward=seen.rewards)
        return self._equal == 0

    def _kl(self, seen: Episodes) -> None:
        per_token = masked.mean(seen.log_ratio, seen.mask)
        if per_token > self._limits.max_kl:
            each = masked.mean(seen.log_ratio, seen.mask, dim=1)  # (B,)
            what = (
                f"the KL to the reference is {per_token.item():.3g} nats per token: the policy has left it; try a "
                "larger kl.coef or a smaller learning_rate (belts.max_kl allows more)"
            )
            self._stop("kl", what, seen.samples, each.argsort(descending=True).tolist(), kl=each, reward=seen.rewards)

    def _entropies(self, seen: Episodes) -> None:
        now = masked.mean(seen.entropies, seen.mask).item()
        self._entropy = now if self._entropy is None else self._entropy
        if now < self._limits.min_entropy * self._entropy:
            each = masked.mean(seen.entropies, seen.mask, dim=1)
            what = (
                f"the entropy fell from {self._entropy:.3g} to {now:.3g} nats per token: the policy explores no more; "
                "try entropy_coef, a larger kl.coef or a smaller learning_rate (belts.min_entropy allows less)"
            )
            self._stop("entropy", what, seen.samples, each.argsort().tolist(), entropy=each, reward=seen.rewards)

    def _values(self, seen: Episodes) -> None:
        if seen.values is None:
            return
        to_come = seen.paid.flip(1).cumsum(1)  # an estimator's returns may grow with the values
        self._largest = max(self._largest, to_come.abs().max().item())
        each = seen.values.abs().amax(1)  # (B,)
        if not each.max() <= self._limits.max_value * self._largest:
            what = (
                f"a value is {each.max().item():.3g} where no sum of rewards to come was larger than "
                f"{self._largest:.3g}: the critic diverges; try a smaller value.coef or learning_rate, or "
                "shaping: [running] (limit: belts.max_value)"
            )
            worst = each.argsort(descending=True).tolist()
            self._stop("value", what, seen.samples, worst, value=each, reward=seen.rewards)

    def _stop(self, belt: str, what: str, samples: Samples, picked: Sequence[int], **numbers: Tensor) -> NoReturn:
        step = self._step()
        found = rows(samples, list(picked)[:MOST], **numbers)
        write(self._file, [{"step": step, "belt": belt, **row} for row in found])
        raise RunError(f"step {step}: {what}; the responses are in {self._file}")
