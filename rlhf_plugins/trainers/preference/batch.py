"""Rows of preference pairs as branch batches, cut as TRL cuts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlhf_plugins.data.batches.branches import BranchBatch, Ids, Layout, PromptBranches, collate
from rlhf_plugins.errors import RunError
from rlhf_plugins.trainers.steps.micro_batches import Row, in_micro_batches

REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
OF_PAIRS = {"probability": 1.0, "margin": 0.0}  # columns that a loss of ours reads, and what a row without one has
FILLED = "prompt fills max_length"  # why a row is left out
NUMBERS = (*REFERENCE, *OF_PAIRS)  # columns of a row that a batch holds as tensors, where the rows have them


def with_room(rows: Any, args: Any) -> Any:
    """The rows whose prompt leaves room for a response, as TRL keeps them.

    Raises:
        RunError: there is none.
    """
    if args.max_length is None or args.truncation_mode != "keep_start":
        return rows
    kept = rows.filter(lambda row: len(row["prompt_ids"]) < args.max_length)
    refuse_none(kept, args)
    return kept


def refuse_none(rows: Any, args: Any) -> None:
    """Raises RunError where the cut at `max_length` left no row; rows that are streamed cannot be counted."""
    if hasattr(rows, "__len__") and not len(rows):
        raise RunError(f"every prompt fills max_length ({args.max_length}): write a larger one, or null")


class Side(NamedTuple):
    """A prompt and one of its two responses, both of at least one token."""

    prompt: Ids
    response: Ids
    length: int  # tokens of the response by TRL's count, which includes a first token that nothing predicts
    scored: bool  # False where no token is left that a model could predict: the response is then a filler


@dataclass(frozen=True)
class Collator:
    """Rows of `prompt_ids`, `chosen_ids`, `rejected_ids` to a branch batch, chosen first, cut at `max_length` tokens.

    As in TRL, `keep_start` cuts the end of a response and `keep_end` the start of a prompt.
    """

    pad_id: int
    max_length: int | None
    truncation_mode: str
    layout: Layout
    tokens: int | None = None  # most tokens of a micro-batch

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """-> `lengths` and `scored` (2 pairs,), the tensors of a BranchBatch, and those of `NUMBERS` (pairs,)."""
        return in_micro_batches(rows, self.groups, self.tokens, self.layout, self._batch)

    def _batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        sides = [side for row in rows for side in self.sides(row)]
        groups = [group for row in rows for group in self.groups(row)]
        return {
            "lengths": torch.tensor([side.length for side in sides]),
            "scored": torch.tensor([side.scored for side in sides]),
            **collate(groups, self.pad_id, self.layout),
            **{name: torch.tensor([_number(row, name) for row in rows]) for name in NUMBERS if name in rows[0]},
        }

    def groups(self, row: Row) -> list[PromptBranches]:
        """One group of two branches, or two of one where cutting from the start leaves them different prompts."""
        chosen, rejected = self.sides(row)
        if list(chosen.prompt) == list(rejected.prompt):
            return [PromptBranches(chosen.prompt, [chosen.response, rejected.response])]
        return [PromptBranches(side.prompt, [side.response]) for side in (chosen, rejected)]

    def sides(self, row: Row) -> tuple[Side, Side]:
        """The prompt with the chosen and with the rejected response.

        Where no prompt is left, the first token of the response counts as prompt, as in TRL.
        """
        return self._side(row["prompt_ids"], row["chosen_ids"]), self._side(row["prompt_ids"], row["rejected_ids"])

    def is_cut(self, row: Row) -> bool:
        """Whether a row has more than `max_length` tokens."""
        longest = len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        return self.max_length is not None and longest > self.max_length

    def _side(self, prompt: Ids, response: Ids) -> Side:
        prompt, response = self._cut(prompt, response)
        length = len(response)
        if not prompt:
            prompt, response = response[:1] or [self.pad_id], response[1:]
        return Side(prompt, response or [self.pad_id], length, bool(response))

    def _cut(self, prompt: Ids, response: Ids) -> tuple[Ids, Ids]:
        extra = 0 if self.max_length is None else len(prompt) + len(response) - self.max_length
        if extra <= 0:
            return prompt, response
        if self.truncation_mode == "keep_start":
            assert self.max_length is not None
            return prompt[: self.max_length], response[: max(0, len(response) - extra)]
        return prompt[extra:], response[max(0, extra - len(prompt)) :]


def _number(row: Row, name: str) -> float:
    return float(OF_PAIRS[name] if row[name] is None else row[name])


def separate(parts: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Tensor]:
    """The rows of a batch as TRL lays them out: `input_ids` and `attention_mask`, all chosen before all rejected."""
    rows: list[tuple[list[Tensor], ...]] = []
    for part in parts:
        batch = BranchBatch.from_inputs(part)
        ids, sizes = batch.input_ids.flatten()[batch.index], batch.mask.sum(1) - (~part["scored"]).long()
        sequences = [row[:size] for row, size in zip(ids, sizes.tolist(), strict=True)]
        rows.append((sequences[::2], sequences[1::2]))
    both = [row for side in (0, 1) for part_rows in rows for row in part_rows[side]]
    pad = torch.nn.utils.rnn.pad_sequence
    ones = [torch.ones_like(row) for row in both]
    return {
        "input_ids": pad(both, batch_first=True, padding_value=pad_id),
        "attention_mask": pad(ones, batch_first=True),
    }
