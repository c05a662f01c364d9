"""The one batch: prompts and their branches as token tensors.

A row holds a group as `[prompt | branch 1 | ... | branch K]`: a branch sees the prompt and itself, never a sibling,
and its positions continue the prompt's. `Layout` is how groups become rows. In every layout `index` is the position
in the flattened rows of each token of each branch's own sequence, so that a reader of hidden states through `index`
need not know the layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor

PADDING = -1  # the segment of a token that nobody reads
ALIGNED = 8  # numbers, at whose multiples rows of a mask begin
LONG, PADDED = 1_024, 0.1  # tokens of a group and share of padding from which on packing pays on a GPU
TOKENS_PER_BATCH = 8_192  # laid out at once by default, padding included

Ids = Sequence[int]


class Layout(Enum):
    """How groups become rows."""

    PACKED = "packed"  # one row for all groups, without padding
    ROWS = "rows"  # one row per group
    EITHER = "either"  # packed where it pays on a GPU, else one row per group
    SEPARATE = "separate"  # one row per branch, after its prompt


@dataclass(frozen=True)
class PromptBranches:
    """A prompt and its K >= 1 responses as token ids; each response has at least one token."""

    prompt: Ids
    branches: Sequence[Ids]


@dataclass(frozen=True)
class Sizes:
    """How many tokens prompts and branches have, known to the host, which would have to wait for a GPU's answer."""

    rows: tuple[tuple[tuple[int, ...], ...], ...]  # by row and group: of the prompt, and of each branch

    def to(self, *_: Any, **__: Any) -> Sizes:
        """Itself: it moves to no device, where the tensors of its batch are moved."""
        return self

    @property
    def longest(self) -> int:
        """Tokens of the longest branch."""
        return max(length for row in self.rows for _, *branches in row for length in branches)

    @property
    def tokens(self) -> int:
        """Tokens of all sequences, of which each branch has its own."""
        return sum(prompt + length for row in self.rows for prompt, *branches in row for length in branches)

    def predicted(self, width: int) -> tuple[Tensor, Tensor]:
        """Where in flattened rows of a width each branch token is predicted, and where it is; both (tokens,)."""
        before, own = list[Any](), list[Any]()
        for prompt, start, length in self._branches(width):
            own.append(np.arange(start, start + length))
            before += [[prompt - 1], own[-1][:-1]]  # the last token of a prompt predicts the first one of each branch
        return torch.from_numpy(np.concatenate(before)), torch.from_numpy(np.concatenate(own))

    def last(self, width: int) -> Tensor:
        """Where in flattened rows of a width the last token of each branch is, (B,)."""
        return torch.from_numpy(np.array([start + length - 1 for _, start, length in self._branches(width)]))

    def _branches(self, width: int) -> Iterator[tuple[int, int, int]]:
        """For each branch: where its prompt ends, where the branch starts, and its number of tokens."""
        for number, row in enumerate(self.rows):
            start = number * width
            for prompt, *branches in row:
                start += prompt
                end = start
                for length in branches:
                    yield end, start, length
                    start += length


@dataclass(frozen=True)
class BranchBatch:
    """G groups with B branches in all, laid out as R rows of N tokens; a branch's own sequence has up to L tokens."""

    input_ids: Tensor  # (R, N)
    position_ids: Tensor  # (R, N)
    segment: Tensor  # (R, N) PADDING, or the number in its row of the prompt or branch of a token
    parent: Tensor  # (R, N) PADDING, or the number of the prompt that a token is in or continues
    index: Tensor  # (B, L) position in the flattened rows; 0 where mask is False
    mask: Tensor  # (B, L) bool, True at the tokens of the sequence, from the left
    response: Tensor  # (B, L) bool, True at response tokens
    group: Tensor  # (B,) which group a branch belongs to
    sizes: Sizes | None = None  # of the rows that `collate` laid out

    @classmethod
    def from_inputs(cls, inputs: Mapping[str, Any]) -> BranchBatch:
        """Takes the batch's own tensors out of a trainer's input dictionary."""
        return cls(**{name: inputs[name] for name in cls.__dataclass_fields__})

    @property
    def shared(self) -> bool:
        """Whether any row holds more than one branch."""
        return len(self.index) > len(self.input_ids)

    @property
    def last(self) -> Tensor:
        """Position in the flattened rows of the last token of each branch, (B,), on the host where sizes are known."""
        if self.sizes is not None:
            return self.sizes.last(self.input_ids.shape[1])
        return self.index.gather(1, self.mask.sum(1, keepdim=True) - 1).squeeze(1)

    @property
    def tokens(self) -> int:
        """Tokens of all sequences; a GPU's answer is waited for only where sizes are unknown."""
        return int(self.mask.sum()) if self.sizes is None else self.sizes.tokens

    @property
    def lengths(self) -> Tensor:
        """Response tokens of each branch, (B,)."""
        return self.response.sum(1)

    def response_mask(self) -> Tensor:
        """(B, T) bool with T the longest response: True at response tokens counted from the response's start."""
        assert self.sizes is not None
        return torch.arange(self.sizes.longest, device=self.lengths.device) < self.lengths.unsqueeze(1)

    def scored(self) -> tuple[Tensor, Tensor]:
        """Where in the flattened rows each response token is predicted, on the host, and its id; both (tokens,)."""
        assert self.sizes is not None
        places, own = self.sizes.predicted(self.input_ids.shape[1])
        return places, self.input_ids.flatten().index_select(0, own.to(self.input_ids.device, non_blocking=True))

    def by_length(self, parts: int = 4, worth: float = 0.25) -> list[tuple[Tensor, BranchBatch]]:
        """The rows and batches of the same branches, short ones apart from long ones, where that saves padding.

        Args:
            parts: batches to make of separate rows; a shared row stays with the others.
            worth: share of padding below which the batch is left whole.
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
        tokens = {
            name: getattr(self, name).flatten()[index] for name in ("input_ids", "position_ids", "segment", "parent")
        }
        tokens |= {name: tokens[name].masked_fill(~mask, PADDING) for name in ("segment", "parent")}
        start = torch.arange(len(rows), device=rows.device).unsqueeze(1) * width
        places = torch.arange(width, device=rows.device).expand(len(rows), width)
        own = (start + places).masked_fill(~mask, 0)
        return BranchBatch(**tokens, index=own, mask=mask, response=self.response[rows, :width], group=self.group[rows])

    def attention_mask(self, dtype: torch.dtype) -> Tensor:
        """What any decoder takes: (R, 1, N, N) additive for shared rows, (R, N) of 0 and 1 for separate ones.

        A padding token sees only itself, so that no row of a softmax is empty. Rows of a mask begin at a multiple of 8
        numbers: kernels of a GPU would copy any other in each layer.
        """
        if not self.shared:
            return (self.segment != PADDING).long()
        width = self.segment.shape[1]
        wide = torch.zeros(*self.segment.shape, -(-width // ALIGNED) * ALIGNED, dtype=dtype, device=self.segment.device)
        return wide[..., :width].masked_fill_(~self.visible(), torch.finfo(dtype).min).unsqueeze(1)

    def visible(self, at: slice = slice(None)) -> Tensor:
        """Which token of a row sees which, (R, n, n) bool, of the n tokens `at`."""
        segment, parent = self.segment[:, at], self.parent[:, at]
        key = segment.unsqueeze(1)
        seen = (key == segment.unsqueeze(2)) | (key == parent.unsqueeze(2))
        causal = torch.ones_like(seen).tril()
        return seen & causal & (key != PADDING) | torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device)


def collate(groups: Sequence[PromptBranches], pad_id: int, layout: Layout = Layout.PACKED) -> dict[str, Any]:
    """Lays groups out as the parts of a `BranchBatch`, branches in the order given.

    Args:
        groups: prompts with their branches.
        pad_id: token id that fills short rows; it never influences a result.
        layout: how groups become rows.

    Raises:
        ValueError: a prompt or a branch has no token.
    """
    if any(not group.prompt or not all(group.branches) for group in groups):
        raise ValueError("a prompt or a branch has no token")
    rows = _rows(groups, layout)
    width = max(_tokens(row) for row in rows)
    places = [place for start, row in enumerate(rows) for place in _sequences(row, start * width)]
    return {
        **_laid(rows, width, pad_id),
        "index": _padded([[*prompt, *branch] for prompt, branch in places], 0),
        "mask": _padded([[True] * (len(prompt) + len(branch)) for prompt, branch in places], False),
        "response": _padded([[False] * len(prompt) + [True] * len(branch) for prompt, branch in places], False),
        "group": torch.tensor([g for g, group in enumerate(groups) for _ in group.branches]),
        "sizes": Sizes(tuple(tuple(map(_lengths, row)) for row in rows)),
    }


def by_prompt(prompts: Sequence[Ids], branches: Sequence[Ids]) -> list[PromptBranches]:
    """Groups neighbours that have the same prompt; the order of branches is kept."""
    groups: list[tuple[Ids, list[Ids]]] = []
    for prompt, branch in zip(prompts, branches, strict=True):
        if not groups or list(groups[-1][0]) != list(prompt):
            groups.append((prompt, []))
        groups[-1][1].append(branch)
    return [PromptBranches(*group) for group in groups]


def within_budget(groups: Sequence[PromptBranches], tokens: int, layout: Layout) -> Iterator[list[PromptBranches]]:
    """Neighbouring groups in batches of at most `tokens` once laid out; a branch that alone has more is a batch.

    A group with more is cut into groups of fewer branches; the order of branches is kept.
    """
    batch: list[PromptBranches] = []
    for piece in (piece for group in groups for piece in _pieces(group, tokens, layout)):
        if batch and size([*batch, piece], layout) > tokens:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def size(groups: Sequence[PromptBranches], layout: Layout) -> int:
    """Tokens of the groups once laid out, padding included."""
    rows = _rows(groups, layout)
    return len(rows) * max(map(_tokens, rows))


def _pieces(group: PromptBranches, tokens: int, layout: Layout) -> Iterator[PromptBranches]:
    branches: list[Ids] = []
    for branch in group.branches:
        if branches and size([PromptBranches(group.prompt, [*branches, branch])], layout) > tokens:
            yield PromptBranches(group.prompt, branches)
            branches = []
        branches.append(branch)
    yield PromptBranches(group.prompt, branches)


def _rows(groups: Sequence[PromptBranches], layout: Layout) -> list[list[PromptBranches]]:
    """The groups of each row."""
    if layout is Layout.EITHER:
        layout = Layout.PACKED if _packing_pays(groups) else Layout.ROWS
    if layout is Layout.PACKED:
        return [list(groups)]
    if layout is Layout.ROWS:
        return [[group] for group in groups]
    return [[PromptBranches(group.prompt, [branch])] for group in groups for branch in group.branches]


def _packing_pays(groups: Sequence[PromptBranches]) -> bool:
    """Whether packed groups cost a GPU less than one row per group under a mask; docs/engine.md has the figures."""
    sizes = [_tokens([group]) for group in groups]
    if all(len(group.branches) == 1 for group in groups):  # whose attention is one call then, without a merge
        return min(sizes) < max(sizes)
    return max(sizes) >= LONG or sum(sizes) <= (1 - PADDED) * len(sizes) * max(sizes)


def _tokens(row: Sequence[PromptBranches]) -> int:
    return sum(map(sum, map(_lengths, row)))


def _lengths(group: PromptBranches) -> tuple[int, ...]:
    return len(group.prompt), *map(len, group.branches)


def _laid(rows: Sequence[Sequence[PromptBranches]], width: int, pad_id: int) -> dict[str, Tensor]:
    """The tensors of a batch with one value per token, (R, N)."""
    ids, positions, segments, parents = (torch.full((len(rows), width), fill) for fill in (pad_id, 0, PADDING, PADDING))
    for r, row in enumerate(rows):
        start = number = 0
        for group in row:
            parent, first = number, 0
            for part in (group.prompt, *group.branches):
                own = slice(start, start + len(part))
                ids[r, own] = torch.tensor(part)
                positions[r, own] = torch.arange(first, first + len(part))
                segments[r, own], parents[r, own] = number, parent
                start, number, first = own.stop, number + 1, len(group.prompt)
    return {"input_ids": ids, "position_ids": positions, "segment": segments, "parent": parents}


def _sequences(row: Sequence[PromptBranches], start: int) -> Iterator[tuple[range, range]]:
    """Positions in the flattened rows of the prompt and response of each branch, of a row that begins at `start`."""
    for group in row:
        prompt = range(start, start + len(group.prompt))
        start = prompt.stop
        for branch in group.branches:
            yield prompt, range(start, start + len(branch))
            start += len(branch)


def _padded(rows: Sequence[Sequence[Any]], fill: Any) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])
