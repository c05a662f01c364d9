"""The one batch: prompts and their branches as token tensors. It knows token ids, not models and not losses.

A shared row is `[prompt | branch 1 | ... | branch K | padding]`: a branch sees the prompt and itself, never a sibling,
and its positions continue the prompt's. A separate row is one whole sequence `[prompt | branch]`. Either way `index`
tells where in the flattened rows each token of each branch's own sequence stands, so that whoever reads hidden states
through `index` need not know which layout made them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PADDING, PROMPT = -1, 0  # segments; branches are 1..K

Ids = Sequence[int]


@dataclass(frozen=True)
class PromptBranches:
    """A prompt and its K >= 1 responses as token ids; each response has at least one token."""

    prompt: Ids
    branches: Sequence[Ids]


@dataclass(frozen=True)
class BranchBatch:
    """G groups with B branches in all, laid out as R rows of N tokens; a branch's own sequence has up to L tokens."""

    input_ids: Tensor  # (R, N)
    position_ids: Tensor  # (R, N)
    segment: Tensor  # (R, N) PADDING, PROMPT or the number of the branch in its row
    index: Tensor  # (B, L) position in the flattened rows; 0 where mask is False
    mask: Tensor  # (B, L) bool, True at the tokens of the sequence, from the left
    response: Tensor  # (B, L) bool, True at response tokens
    group: Tensor  # (B,) which group a branch belongs to

    @classmethod
    def from_inputs(cls, inputs: Mapping[str, Any]) -> BranchBatch:
        """Takes the batch's own tensors out of a trainer's input dictionary."""
        return cls(**{name: inputs[name] for name in cls.__dataclass_fields__})

    @property
    def shared(self) -> bool:
        """Whether any row holds more than one branch."""
        return len(self.index) > len(self.input_ids)

    @property
    def lengths(self) -> Tensor:
        """Response tokens of each branch, (B,)."""
        return self.response.sum(1)

    def response_mask(self) -> Tensor:
        """(B, T) bool with T the longest response: True at response tokens counted from the response's start."""
        places = torch.arange(int(self.lengths.max()), device=self.lengths.device)
        return places < self.lengths.unsqueeze(1)

    def scored(self) -> tuple[Tensor, Tensor]:
        """Where in the flattened rows each response token is predicted, and its id; both (tokens,), by branch."""
        is_scored = self.response[:, 1:]
        return self.index[:, :-1][is_scored], self.input_ids.flatten()[self.index[:, 1:][is_scored]]

    def by_length(self, parts: int = 4, worth: float = 0.25) -> list[tuple[Tensor, BranchBatch]]:
        """The rows and batches of the same branches, short ones apart from long ones, where that saves padding.

        Args:
            parts: batches to make of separate rows; a shared row stays with the others.
            worth: share of the tokens that must be padding, lest the batch is left whole.
        """
        lengths = self.mask.sum(1)
        whole = [(torch.arange(len(lengths), device=lengths.device), self)]
        rows, width = self.input_ids.shape
        if self.shared or rows < 2 * parts or int(lengths.sum()) > (1 - worth) * rows * width:
            return whole
        return [(rows, self._part(rows, int(lengths[rows].max()))) for rows in lengths.argsort().chunk(parts)]

    def _part(self, rows: Tensor, width: int) -> BranchBatch:
        """Some of the separate rows, their tokens moved to the left and cut to a width that holds them."""
        index, mask = self.index[rows, :width], self.mask[rows, :width]
        tokens = {name: getattr(self, name).flatten()[index] for name in ("input_ids", "position_ids", "segment")}
        tokens["segment"] = tokens["segment"].masked_fill(~mask, PADDING)
        start = torch.arange(len(rows), device=rows.device).unsqueeze(1) * width
        places = torch.arange(width, device=rows.device).expand(len(rows), width)
        own = (start + places).masked_fill(~mask, 0)
        return BranchBatch(**tokens, index=own, mask=mask, response=self.response[rows, :width], group=self.group[rows])

    def attention_mask(self, dtype: torch.dtype) -> Tensor:
        """What a decoder needs: (R, 1, N, N) additive for shared rows, (R, N) of 0 and 1 for separate ones.

        A padding token sees only itself, so that no row of a softmax is empty.
        """
        if not self.shared:
            return (self.segment != PADDING).long()
        query, key = self.segment.unsqueeze(2), self.segment.unsqueeze(1)  # (R, N, 1), (R, 1, N)
        n = self.segment.shape[1]
        causal = torch.ones(n, n, dtype=torch.bool, device=self.segment.device).tril()
        seen = causal & ((key == PROMPT) | (key == query)) & (key != PADDING) & (query != PADDING)
        seen |= torch.eye(n, dtype=torch.bool, device=self.segment.device)
        additive = torch.zeros(seen.shape, dtype=dtype, device=self.segment.device)
        return additive.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)


def collate(groups: Sequence[PromptBranches], pad_id: int, shared: bool = True) -> dict[str, Tensor]:
    """Lays groups out as the tensors of a `BranchBatch`, branches in the order given.

    Args:
        groups: prompts with their branches.
        pad_id: token id that fills short rows; it never influences a result.
        shared: one row a group, or one row a branch.

    Raises:
        ValueError: a prompt or a branch has no token.
    """
    if any(not group.prompt or not all(group.branches) for group in groups):
        raise ValueError("a prompt or a branch has no token")
    rows = list(groups) if shared else [PromptBranches(g.prompt, [b]) for g in groups for b in g.branches]
    width = max(len(row.prompt) + sum(map(len, row.branches)) for row in rows)
    laid = [_row(row, pad_id, width) for row in rows]
    where = [(r * width, span) for r, row in enumerate(rows) for span in _spans(row)]
    longest = max(prompt + branch for _, (prompt, _, branch) in where)
    sequences = [_sequence(offset, span, longest) for offset, span in where]
    return {
        **{name: torch.tensor([row[name] for row in laid]) for name in laid[0]},
        **{name: torch.tensor([sequence[name] for sequence in sequences]) for name in sequences[0]},
        "group": torch.tensor([g for g, group in enumerate(groups) for _ in group.branches]),
    }


def common_prefix(sequences: Sequence[Ids]) -> PromptBranches:
    """Splits whole sequences at their longest common prefix, leaving every branch and the prefix at least one token.

    Raises:
        ValueError: a sequence has fewer than two tokens, or the first tokens differ.
    """
    shortest = min(map(len, sequences))
    length = next((i for i in range(shortest) if len({s[i] for s in sequences}) > 1), shortest)
    length = min(length, shortest - 1)
    if length < 1:
        raise ValueError("sequences share no first token, or one is shorter than two tokens")
    return PromptBranches(sequences[0][:length], [s[length:] for s in sequences])


def by_prompt(prompts: Sequence[Ids], branches: Sequence[Ids]) -> list[PromptBranches]:
    """Groups neighbours that have the same prompt; the order of branches is kept."""
    groups: list[tuple[Ids, list[Ids]]] = []
    for prompt, branch in zip(prompts, branches, strict=True):
        if not groups or list(groups[-1][0]) != list(prompt):
            groups.append((prompt, []))
        groups[-1][1].append(branch)
    return [PromptBranches(*group) for group in groups]


def within_budget(groups: Sequence[PromptBranches], tokens: int, shared: bool) -> Iterator[list[PromptBranches]]:
    """Neighbouring groups in batches that hold at most `tokens` once padded; a branch that alone has more stands alone.

    A group with more is cut into groups of fewer branches; the order of branches is kept.
    """
    batch: list[PromptBranches] = []
    for piece in (piece for group in groups for piece in _pieces(group, tokens, shared)):
        if batch and _padded([*batch, piece], shared) > tokens:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def _pieces(group: PromptBranches, tokens: int, shared: bool) -> Iterator[PromptBranches]:
    branches: list[Ids] = []
    for branch in group.branches:
        if branches and _padded([PromptBranches(group.prompt, [*branches, branch])], shared) > tokens:
            yield PromptBranches(group.prompt, branches)
            branches = []
        branches.append(branch)
    yield PromptBranches(group.prompt, branches)


def _padded(groups: Sequence[PromptBranches], shared: bool) -> int:
    if shared:
        return len(groups) * max(len(g.prompt) + sum(map(len, g.branches)) for g in groups)
    return sum(len(g.branches) for g in groups) * max(len(g.prompt) + len(b) for g in groups for b in g.branches)


def _row(row: PromptBranches, pad_id: int, width: int) -> dict[str, list[int]]:
    ids, positions, segment = list(row.prompt), list(range(len(row.prompt))), [PROMPT] * len(row.prompt)
    for number, branch in enumerate(row.branches, start=1):
        ids += branch
        positions += range(len(row.prompt), len(row.prompt) + len(branch))
        segment += [number] * len(branch)
    rest = width - len(ids)
    return {
        "input_ids": ids + [pad_id] * rest,
        "position_ids": positions + [0] * rest,
        "segment": segment + [PADDING] * rest,
    }


def _spans(row: PromptBranches) -> list[tuple[int, int, int]]:
    """Of each branch: the prompt's length, where in the row the branch starts, and its length."""
    start, spans = len(row.prompt), []
    for branch in row.branches:
        spans.append((len(row.prompt), start, len(branch)))
        start += len(branch)
    return spans


def _sequence(offset: int, span: tuple[int, int, int], longest: int) -> dict[str, list[int] | list[bool]]:
    prompt, start, branch = span
    places = [*range(offset, offset + prompt), *range(offset + start, offset + start + branch)]
    rest = longest - len(places)
    return {
        "index": places + [0] * rest,
        "mask": [True] * len(places) + [False] * rest,
        "response": [False] * prompt + [True] * branch + [False] * rest,
    }
