"""What is written down while a policy trains: its numbers, and a table of what it says. It judges nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_plugins.arithmetic import masked, objectives
from rlhf_plugins.contract.rows import GoldReward, Samples, Text
from rlhf_plugins.data.tokens import as_text
from rlhf_plugins.trainers.episodes import Episodes
from rlhf_plugins.trainers.settings import Table

Row = dict[str, Any]
SAMPLES = "samples.jsonl"


def rows(samples: Samples, picked: Sequence[int], **numbers: Tensor | None) -> list[Row]:
    """Some responses as JSON would have them, with a number (B,) of each by name."""
    told = {name: values.tolist() for name, values in numbers.items() if values is not None}
    return [
        {
            "prompt": as_text(samples.prompts[i]),
            "response": samples.responses[i],
            **{name: values[i] for name, values in told.items()},
        }
        for i in picked
    ]


def write(file: Path, entries: Sequence[Row]) -> None:
    """Appends one line an entry; a number that is not finite is written as its name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        for entry in entries:
            shown = {name: str(v) if isinstance(v, float) and v - v != 0 else v for name, v in entry.items()}
            lines.write(json.dumps(shown, ensure_ascii=False) + "\n")


class Watch:
    """The notes of one training.

    Args:
        folder: where `samples.jsonl` is written.
        table: how often, and how many responses.
        gold: the true reward, where the data knows it; the policy never learns from it.
    """

    def __init__(self, folder: Path, table: Table, gold: GoldReward | None = None) -> None:
        self._file, self._table, self._gold = folder / SAMPLES, table, gold
        self._rollouts = 0
        self._first: list[Row] = []
        self._newest: list[Row] = []

    @property
    def shown(self) -> list[Row]:
        """The first and the newest entries of the table, each row with its step."""
        return self._first + (self._newest if self._newest is not self._first else [])

    def rollout(self, seen: Episodes, step: int) -> dict[str, float]:
        """Numbers of a rollout; every so often, some of its responses are kept."""
        gold, mask = self._golden(seen.samples), seen.mask
        kl = seen.log_ratio.masked_fill(~mask, 0.0).sum(1)  # (B,)
        lengths = mask.sum(1)
        if self._rollouts % self._table.every == 0:
            picked = _of_different_prompts(seen.samples.prompts)[: self._table.rows]
            columns = {"reward": seen.rewards, "gold": gold, "kl": kl, "tokens": lengths}
            self._newest = [{"step": step, **row} for row in rows(seen.samples, picked, **columns)]
            self._first = self._first or self._newest
            write(self._file, self._newest)
        self._rollouts += 1
        return _numbers(seen, gold)

    def _golden(self, samples: Samples) -> Tensor | None:
        if self._gold is None:
            return None
        both = zip(samples.prompts, samples.responses, strict=True)
        return torch.tensor([self._gold(str(prompt), response)["total"] for prompt, response in both])


def _numbers(seen: Episodes, gold: Tensor | None) -> dict[str, float]:
    mask = seen.mask
    found: Mapping[str, Tensor | None] = {
        "reward": seen.rewards.mean(),
        "shaped_reward": seen.scores.mean(),
        "gold_reward": None if gold is None else gold.mean(),
        "kl": objectives.kl_estimate(seen.log_ratio, mask),
        "entropy": masked.mean(seen.entropies, mask),
        "length": mask.sum(1).float().mean(),
        "explained_variance": None if seen.values is None else explained_variance(seen.values, seen.returns, mask),
    }
    return {name: value.item() for name, value in found.items() if value is not None}


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - var(returns - values) / var(returns): 1 is a perfect critic, 0 one that says nothing, a scalar."""
    unexplained = masked.variance(returns - values, mask)
    return 1 - unexplained / masked.variance(returns, mask).clamp(min=1e-8)


def _of_different_prompts(prompts: Sequence[Text]) -> list[int]:
    """The first response to each prompt."""
    return list({str(prompt): i for i, prompt in reversed(list(enumerate(prompts)))}.values())[::-1]
