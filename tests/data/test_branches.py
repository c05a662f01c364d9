"""The one batch: laid out by hand, and every layout the same to whoever reads through `index`."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf_plugins.data.batches.branches import (
    BranchBatch,
    Layout,
    PromptBranches,
    by_prompt,
    collate,
    size,
    within_budget,
)

GROUPS = [PromptBranches([1, 2], [[3], [4, 5]]), PromptBranches([6], [[7]])]
IDS = st.lists(st.integers(1, 9), min_size=1, max_size=5)
MANY_GROUPS = st.lists(st.builds(PromptBranches, IDS, st.lists(IDS, min_size=1, max_size=4)), min_size=1, max_size=4)


LAYOUTS = st.sampled_from(Layout)


def batch(groups: list[PromptBranches], layout: Layout = Layout.ROWS, pad_id: int = 0) -> BranchBatch:
    return BranchBatch.from_inputs(collate(groups, pad_id, layout) | {"labels": None})


def grid(row: Tensor) -> list[str]:
    return ["".join("x" if seen else "." for seen in line) for line in (row == 0).tolist()]


def test_a_shared_row_by_hand() -> None:
    laid = batch(GROUPS)
    assert laid.shared
    assert laid.input_ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]
    assert laid.position_ids.tolist() == [[0, 1, 2, 2, 3], [0, 1, 0, 0, 0]]  # each branch goes on from its prompt
    assert laid.segment.tolist() == [[0, 0, 1, 2, 2], [0, 1, -1, -1, -1]]
    assert laid.parent.tolist() == [[0, 0, 0, 0, 0], [0, 0, -1, -1, -1]]
    assert laid.index.tolist() == [[0, 1, 2, 0], [0, 1, 3, 4], [5, 6, 0, 0]]
    assert laid.mask.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert laid.response.int().tolist() == [[0, 0, 1, 0], [0, 0, 1, 1], [0, 1, 0, 0]]
    assert laid.group.tolist() == [0, 0, 1]


def test_a_packed_row_by_hand() -> None:
    laid = batch(GROUPS, Layout.PACKED, pad_id=9)
    assert laid.shared
    assert laid.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7]]
    assert laid.position_ids.tolist() == [[0, 1, 2, 2, 3, 0, 1]]
    assert laid.segment.tolist() == [[0, 0, 1, 2, 2, 3, 4]]
    assert laid.parent.tolist() == [[0, 0, 0, 0, 0, 3, 3]]
    assert laid.index.tolist() == [[0, 1, 2, 0], [0, 1, 3, 4], [5, 6, 0, 0]]
    assert laid.last.tolist() == [2, 4, 6]
    assert grid(laid.attention_mask(torch.float32)[0, 0])[4:] == ["xx.xx..", ".....x.", ".....xx"]


def test_separate_rows_by_hand() -> None:
    laid = batch(GROUPS, Layout.SEPARATE, pad_id=9)
    assert not laid.shared
    assert laid.input_ids.tolist() == [[1, 2, 3, 9], [1, 2, 4, 5], [6, 7, 9, 9]]
    assert laid.position_ids.tolist() == [[0, 1, 2, 0], [0, 1, 2, 3], [0, 1, 0, 0]]
    assert laid.index.tolist() == [[0, 1, 2, 0], [4, 5, 6, 7], [8, 9, 0, 0]]
    assert laid.attention_mask(torch.float32).tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert laid.group.tolist() == [0, 0, 1]


def test_a_branch_sees_the_prompt_and_itself() -> None:
    mask = batch(GROUPS).attention_mask(torch.float32)
    assert mask.shape == (2, 1, 5, 5)
    assert mask.unique().tolist() == [torch.finfo(torch.float32).min, 0.0]
    assert grid(mask[0, 0]) == [  # tokens 1 2 | 3 | 4 5: a row is what a token sees
        "x....",
        "xx...",
        "xxx..",
        "xx.x.",
        "xx.xx",
    ]
    assert grid(mask[1, 0]) == [  # tokens 6 | 7 and three of padding, each of which sees itself alone
        "x....",
        "xx...",
        "..x..",
        "...x.",
        "....x",
    ]


def test_lengths_and_what_is_scored_by_hand() -> None:
    laid = batch(GROUPS)
    assert laid.lengths.tolist() == [1, 2, 1]
    assert laid.response_mask().int().tolist() == [[1, 0], [1, 1], [1, 0]]
    predicted_at, ids = laid.scored()
    assert predicted_at.tolist() == [1, 1, 3, 5]  # 3 and 4 after token 2, 5 after 4, 7 after 6
    assert ids.tolist() == [3, 4, 5, 7]


@given(MANY_GROUPS, LAYOUTS)
def test_read_through_index_each_branch_is_its_own_sequence(groups: list[PromptBranches], layout: Layout) -> None:
    laid = batch(groups, layout)
    wholes = [(group.prompt, branch) for group in groups for branch in group.branches]
    for row, (prompt, branch) in enumerate(wholes):
        places = laid.index[row][laid.mask[row]]
        assert laid.input_ids.flatten()[places].tolist() == [*prompt, *branch]
        assert laid.position_ids.flatten()[places].tolist() == list(range(len(prompt) + len(branch)))
        assert laid.response[row].sum() == laid.lengths[row] == len(branch)
        assert laid.mask[row].sum() == len(prompt) + len(branch)


@given(MANY_GROUPS, LAYOUTS)
def test_all_layouts_agree_on_every_view(groups: list[PromptBranches], layout: Layout) -> None:
    one, other = batch(groups, layout), batch(groups, Layout.SEPARATE)
    assert one.input_ids.flatten()[one.last].tolist() == other.input_ids.flatten()[other.last].tolist()
    for name in ("mask", "response", "group", "lengths"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    assert one.response_mask().tolist() == other.response_mask().tolist()
    assert one.scored()[1].tolist() == other.scored()[1].tolist()


@given(MANY_GROUPS, LAYOUTS)
def test_the_host_knows_how_many_tokens_there_are(groups: list[PromptBranches], layout: Layout) -> None:
    batch = BranchBatch.from_inputs(collate(groups, 0, layout))
    assert batch.tokens == int(batch.mask.sum()) == replace(batch, sizes=None).tokens


@given(MANY_GROUPS, LAYOUTS)
def test_the_host_knows_where_each_response_token_is_predicted(groups: list[PromptBranches], layout: Layout) -> None:
    laid = batch(groups, layout)
    places, targets = laid.scored()
    scored = laid.response[:, 1:]
    assert places.tolist() == laid.index[:, :-1][scored].tolist()
    assert targets.tolist() == laid.input_ids.flatten()[laid.index[:, 1:][scored]].tolist()
    assert laid.response_mask().shape[1] == laid.lengths.max()
    assert laid.last.tolist() == replace(laid, sizes=None).last.tolist()


def test_on_a_gpu_long_groups_are_packed_and_so_are_those_that_would_be_padded() -> None:
    def rows(*sizes: int, branches: int = 2) -> int:
        groups = [PromptBranches([1], [[2] * (n - branches), *[[3]] * (branches - 1)]) for n in sizes]
        return len(batch(groups, Layout.EITHER).input_ids)

    assert (rows(100, 100, 100), rows(1024, 1024), rows(1023, 1023)) == (3, 1, 2)
    assert (rows(100, 80), rows(100, 81)) == (1, 2)  # of 200 tokens 20 or 19 are padding
    assert (rows(100, 99, branches=1), rows(1024, 1024, branches=1)) == (1, 2)


@given(MANY_GROUPS, LAYOUTS)
def test_a_token_sees_its_own_sequence_so_far_and_nothing_else(groups: list[PromptBranches], layout: Layout) -> None:
    laid = batch(groups, layout)
    if not laid.shared:
        return
    width = laid.input_ids.shape[1]
    seen = (laid.attention_mask(torch.float32) == 0).squeeze(1)  # (R, N, N)
    for places, mask in zip(laid.index, laid.mask, strict=True):
        own = places[mask]
        for so_far, place in enumerate(own.tolist(), start=1):
            keys = seen[place // width, place % width].nonzero().flatten() + place // width * width
            assert keys.tolist() == own[:so_far].tolist()


@given(MANY_GROUPS, LAYOUTS)
def test_the_padding_token_stands_only_where_nothing_is_read(groups: list[PromptBranches], layout: Layout) -> None:
    one, other = batch(groups, layout, pad_id=0), batch(groups, layout, pad_id=10)
    assert (one.input_ids == 0).tolist() == (one.segment == -1).tolist()
    tensors = [f.name for f in fields(one) if f.name != "sizes"]
    differ = [name for name in tensors if getattr(one, name).tolist() != getattr(other, name).tolist()]
    assert differ in ([], ["input_ids"])
    assert one.sizes == other.sizes


@pytest.mark.parametrize("group", [PromptBranches([], [[1]]), PromptBranches([1], [[2], []])])
def test_a_prompt_or_branch_without_a_token_is_refused(group: PromptBranches) -> None:
    with pytest.raises(ValueError, match="no token"):
        collate([GROUPS[0], group], pad_id=0)


def test_only_neighbours_are_grouped_by_prompt() -> None:
    found = by_prompt([[1], (1,), [2], [1]], [[3], [4], [5], [6]])
    assert [list(group.prompt) for group in found] == [[1], [2], [1]]
    assert [list(group.branches) for group in found] == [[[3], [4]], [[5]], [[6]]]


def test_prompts_without_a_branch_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        by_prompt([[1], [2]], [[3]])


@given(MANY_GROUPS, st.integers(1, 40), LAYOUTS)
def test_batches_within_a_budget_hold_every_branch_once_and_in_order(
    groups: list[PromptBranches], tokens: int, layout: Layout
) -> None:
    batches = list(within_budget(groups, tokens, layout))
    found = [(group.prompt, branch) for batch in batches for group in batch for branch in group.branches]
    assert found == [(group.prompt, branch) for group in groups for branch in group.branches]
    for batch in batches:
        laid = collate(batch, 0, layout)
        assert laid["input_ids"].numel() == size(batch, layout)
        assert size(batch, layout) <= tokens or len(laid["group"]) == 1


def test_a_group_that_is_too_large_is_cut() -> None:
    (first, second) = within_budget([PromptBranches([1], [[2, 3], [4], [5]])], 4, Layout.ROWS)
    assert [list(first[0].branches), list(second[0].branches)] == [[[2, 3], [4]], [[5]]]


def test_long_rows_stand_apart_from_short_ones_and_none_is_lost() -> None:
    groups = [PromptBranches([9], [[n] * n]) for n in (1, 20, 2, 19, 3, 18, 4, 2)]
    laid = batch(groups, Layout.SEPARATE)
    parts = laid.by_length()
    assert sorted(torch.cat([rows for rows, _ in parts]).tolist()) == list(range(8))
    assert sum(part.input_ids.numel() for _, part in parts) < 0.8 * laid.input_ids.numel()
    for rows, part in parts:
        for row, one in zip(rows.tolist(), range(len(rows)), strict=True):
            sequence = part.input_ids.flatten()[part.index[one]][part.mask[one]]
            assert sequence.tolist() == [*groups[row].prompt, *groups[row].branches[0]]


def test_where_little_padding_would_be_saved_a_batch_stays_whole() -> None:
    assert len(batch([PromptBranches([9], [[1, 2, 3]])] * 8, Layout.SEPARATE).by_length()) == 1
    assert len(batch([PromptBranches([9], [[1], [2] * 9])] * 8).by_length()) == 1
