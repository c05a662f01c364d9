"""What online training shows: numbers of rollouts, a table of responses, and what monitors see of both."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_plugins.arithmetic import masked, objectives
from rlhf_plugins.contract import processes
from rlhf_plugins.contract.function_logs import Heard
from rlhf_plugins.contract.metrics import MISSING, PERCENTILES, percentile
from rlhf_plugins.contract.rows import GoldReward, Samples, Text
from rlhf_plugins.contract.run import Step
from rlhf_plugins.data.turns import as_text
from rlhf_plugins.trainers.ppo.options import Table
from rlhf_plugins.trainers.watching.monitoring import Row, write

if TYPE_CHECKING:
    from rlhf_plugins.trainers.ppo.rollout import Experience

logger = logging.getLogger(__name__)
SAMPLES = "samples.jsonl"
_OFTEN = 0.5  # the share of updates without anything to learn from, from which on a training says so


def rows(samples: Samples, places: Sequence[int], **numbers: Tensor | None) -> list[Row]:
    """Some responses as JSON holds them, with a number (B,) of each by name."""
    columns = {name: values.tolist() for name, values in numbers.items() if values is not None}
    return [
        {
            "prompt": as_text(samples.prompts[i]),
            "response": samples.responses[i],
            **{name: values[i] for name, values in columns.items()},
        }
        for i in places
    ]


class RolloutLog:
    """The numbers and the table of one training.

    Args:
        folder: where `samples.jsonl` is written.
        table: how often responses are written, and how many.
        gold: the true reward, where the data has one; the policy never learns from it.
        listen: is called with the step and the rows that were written.
    """

    def __init__(
        self,
        folder: Path,
        table: Table,
        gold: GoldReward | None = None,
        listen: Callable[[int, Sequence[Mapping[str, Any]]], None] | None = None,
    ) -> None:
        self._file, self._table, self._gold = folder / SAMPLES, table, gold
        self._listen = listen or (lambda step, rows: None)
        self._rollouts = 0
        self._first: list[Row] = []
        self._newest: list[Row] = []

    @property
    def shown(self) -> list[Row]:
        """The first and the newest entries of the table, each row with its step."""
        return self._first + (self._newest if self._newest is not self._first else [])

    def add(
        self, rollout: Experience, step: int, unlearned: Mapping[str, Tensor], heard: Heard | None = None
    ) -> dict[str, float]:
        """The numbers of a rollout; of every so many rollouts, some responses are written to the table.

        Args:
            rollout: the rollout of B responses.
            step: the step of the training.
            unlearned: (B,) True at those that are left out of the loss, by reason.
            heard: what reward functions logged of the responses.
        """
        gold = self._golden(rollout.samples)
        if self._table.rows and self._rollouts % self._table.every == 0:
            places = _of_different_prompts(rollout.samples.prompts)[: self._table.rows]
            found = _entries(rollout, places, gold, unlearned)
            self._newest = [{"step": step, **row} for row in _with_extra(found, rollout.samples, places, heard)]
            self._first = self._first or self._newest
            if processes.is_main():
                write(self._file, self._newest)
            self._listen(step, self._newest)
        self._rollouts += 1
        return _numbers(rollout, gold)

    def state_dict(self) -> dict[str, Any]:
        """How many rollouts were logged, and what is shown of them."""
        newest = None if self._newest is self._first else self._newest
        return {"rollouts": self._rollouts, "first": self._first, "newest": newest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        self._rollouts, self._first = state["rollouts"], state["first"]
        self._newest = self._first if state["newest"] is None else state["newest"]

    def _golden(self, samples: Samples) -> Tensor | None:
        if self._gold is None:
            return None
        both = zip(samples.prompts, samples.responses, strict=True)
        return torch.tensor([self._gold(str(prompt), response)["total"] for prompt, response in both])


def _entries(
    rollout: Experience, places: Sequence[int], gold: Tensor | None, unlearned: Mapping[str, Tensor]
) -> list[Row]:
    """Some responses as the table holds them: what they were paid, for what, and what the policy learned from."""
    kl = None if rollout.log_ratio is None else rollout.log_ratio.masked_fill(~rollout.mask, 0.0).sum(1)  # (B,)
    columns = {
        "reward": rollout.rewards.rewards,
        "gold": gold,
        "kl": kl,
        "tokens": rollout.mask.sum(1),
        "shaped_reward": rollout.rewards.scores,
        "advantage": rollout.advantages.sum(1),
    }
    found = rows(rollout.samples, places, **columns)
    parts = rollout.rewards.prediction.dimensions
    for entry, place in zip(found, places, strict=True):
        own = {name: each[place].item() for name, each in parts.items()}
        entry["parts"] = {name: value for name, value in own.items() if not isnan(value)}
        entry["left_out"] = next((name for name, left in unlearned.items() if left[place]), "")
    return found


def _with_extra(entries: Sequence[Row], samples: Samples, places: Sequence[int], heard: Heard | None) -> Iterator[Row]:
    """The entries with what reward functions logged of them, where they logged anything."""
    for entry, place in zip(entries, places, strict=True):
        extra = heard.extra(samples.prompts[place], samples.responses[place]) if heard else {}
        yield {**entry, "extra": dict(extra)} if extra else entry


def parts_of(dimensions: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean of each part of a reward over the responses that have it, and how many lack it, where any does.

    A part that no response has is left out.
    """
    found: dict[str, float] = {}
    for name, values in dimensions.items():
        lacking = int(values.isnan().sum())
        if lacking < len(values):
            found[f"reward/{name}"] = values.nanmean().item()
        if lacking:
            found[f"{MISSING}{name}"] = float(lacking)
    return found


def warned_of_skips(trainer: Any) -> tuple[str, ...]:
    """What the log and the report say of a training of which many updates had nothing to learn from.

    Args:
        trainer: an OnlineTrainer that trained on the engine.
    """
    args, total = trainer.args, len(trainer._skips)
    of_each = args.steps_per_generation * args.num_iterations // args.gradient_accumulation_steps
    count = nothing_learned(trainer._skips, of_each)
    if not count or count < _OFTEN * total:
        return ()
    cut = ", or no response ended by itself" if trainer._unlearned.get("truncated") else ""
    start = ": the policy is its start" if count == total else ""
    note = (
        f"{count} of {total} updates were skipped, since all rewards of their rollouts were equal, or none was "
        f"given{cut}{start}. Look at the reward, or sample at a higher temperature."
    )
    logger.warning("%s", note)
    return (note,)


def nothing_learned(skips: Sequence[float], of_each: int) -> int:
    """How many updates are of rollouts that were skipped as a whole; `stop_kl` skips the rest of one.

    Args:
        skips: the skips of each update so far, 1 where it was skipped.
        of_each: how many updates a rollout is for.
    """
    rollouts = (skips[first : first + of_each] for first in range(0, len(skips), of_each))
    return sum(len(one) for one in rollouts if all(one))


def _numbers(rollout: Experience, gold: Tensor | None) -> dict[str, float]:
    """What is logged of a rollout."""
    mask, values, log_ratio = rollout.mask, rollout.values, rollout.log_ratio
    found: Mapping[str, Tensor | None] = {
        "reward": rollout.rewards.rewards.mean(),
        "shaped_reward": rollout.rewards.scores.mean(),
        "gold_reward": None if gold is None else gold.mean(),
        "kl": None if log_ratio is None else objectives.kl_estimate(log_ratio, mask),
        "entropy": masked.mean(rollout.entropies, mask),
        "length": mask.sum(1).float().mean(),
        "explained_variance": None if values is None else explained_variance(values, rollout.returns, mask),
    }
    numbers = {name: value.item() for name, value in found.items() if value is not None}
    numbers |= parts_of(rollout.rewards.prediction.dimensions)
    return {**numbers, **percentiles("reward", rollout.rewards.rewards), **percentiles("length", mask.sum(1))}


def percentiles(name: str, values: Tensor) -> dict[str, float]:
    """Percentiles of a number of each response (B,), linearly interpolated, by their names in the log."""
    ranks = torch.tensor(PERCENTILES, dtype=torch.float32, device=values.device) / 100
    return {
        percentile(name, rank): value
        for rank, value in zip(PERCENTILES, values.float().quantile(ranks).tolist(), strict=True)
    }


def step_of(rollout: Experience, updates: Mapping[str, Sequence[float]], numbers: Mapping[str, float]) -> Step:
    """A rollout as monitors see it; the trainer says at which step.

    Args:
        updates: numbers of each update since the last rollout, of which monitors see the mean.
        numbers: the numbers of the rollout, and of the trainer.
    """
    return Step(
        stage="",
        step=0,
        total=None,
        values={**means(updates), **numbers, **limits(rollout)},
        samples=rollout.samples,
        prediction=rollout.rewards.prediction,
        responses=responses(rollout),
    )


def means(updates: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The mean of each number; of the loss with the regularizers, as it is logged."""
    found = {name: sum(values) / len(values) for name, values in updates.items()}
    if "loss" in found:
        found["loss"] += sum(value for name, value in found.items() if name.startswith("regularizer/"))
    return found


def limits(rollout: Experience) -> dict[str, float]:
    """Numbers of a rollout that monitors compare with limits, and that are not logged."""
    to_come = rollout.token_rewards.flip(1).cumsum(1)
    found = {
        "largest_reward_to_come": to_come.abs().max(),
        "equal_rewards": torch.tensor(float(rollout.equal_rewards)),
    }
    if rollout.log_ratio is not None:
        found["kl_per_token"] = masked.mean(rollout.log_ratio, rollout.mask)
    if rollout.values is not None:
        found["largest_value"] = rollout.values.abs().max()
    return {name: value.item() for name, value in found.items()}


def responses(rollout: Experience) -> dict[str, list[float]]:
    """Numbers of each response by name, as a monitor sees them."""
    mask = rollout.mask
    found = {
        "reward": rollout.rewards.rewards,
        "shaped_reward": rollout.rewards.scores,
        "entropy": masked.mean(rollout.entropies, mask, dim=1),
        "tokens": mask.sum(1),
        "advantage": rollout.advantages.sum(1),
    }
    if rollout.log_ratio is not None:
        per_token = masked.mean(rollout.log_ratio, mask, dim=1)
        found |= {"kl": per_token * mask.sum(1), "kl_per_token": per_token}
    if rollout.values is not None:
        found["value"] = rollout.values.abs().amax(1)
    return {name: values.tolist() for name, values in found.items()}


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - var(returns - values) / var(returns): 1 is a perfect critic, 0 one that explains nothing, a scalar."""
    unexplained, least = masked.variance(returns - values, mask), 1e-8 * masked.mean(returns**2, mask)
    return 1 - unexplained / masked.variance(returns, mask).maximum(least).clamp(min=torch.finfo(returns.dtype).tiny)


def _of_different_prompts(prompts: Sequence[Text]) -> list[int]:
    """The first response to each prompt."""
    return list({str(prompt): i for i, prompt in reversed(list(enumerate(prompts)))}.values())[::-1]
