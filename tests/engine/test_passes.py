"""Passes where memory runs out: smaller ones, each response once and in order, with the same numbers."""

from __future__ import annotations

import pytest
import torch
from memory_full import Full
from torch import nn

from rlhf_plugins import Base, RunError
from rlhf_plugins.data.batches.branches import BranchBatch, Layout, by_prompt
from rlhf_plugins.engine.out_of_memory import during
from rlhf_plugins.engine.passes import Passes
from rlhf_plugins.engine.policy import ModelPolicy, open_policy
from rlhf_plugins.testing import tiny_base

PROMPTS, RESPONSES = [[1, 2]] * 2 + [[3]] * 3, [[4], [5, 6], [7], [8], [9]]


class Placed(nn.Module):
    """Says where it is."""

    device = torch.device("cpu")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> ModelPolicy:
    return open_policy(None, Base(tiny_base(tmp_path_factory.mktemp("base")).path))


def responses_of(how: Passes, most: int) -> tuple[list[int], list[slice]]:
    """The last tokens of all responses, and the places of each pass that fits into so many tokens."""

    def last(batch: BranchBatch, _: slice) -> list[int]:
        if batch.input_ids.numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return list(batch.input_ids.flatten()[batch.last].tolist())

    with torch.no_grad():
        found = list(how.over(by_prompt(PROMPTS, RESPONSES), last))
    return [token for _, part in found for token in part], [rows for rows, _ in found]


def test_smaller_passes_give_each_response_once_and_are_remembered(caplog: pytest.LogCaptureFixture) -> None:
    how = Passes(Placed(), Layout.PACKED, 0, tokens=9)  # the first group has 5 tokens, the second 4
    with during("stage dpo"):
        assert responses_of(how, most=4) == ([4, 6, 7, 8, 9], [slice(0, 1), slice(1, 2), slice(2, 5)])
    assert (
        "out of memory (stage dpo) with 9 tokens scored at once: computed again in passes of at most 4" in caplog.text
    )
    caplog.clear()
    assert len(responses_of(how, most=4)[1]) == 3
    assert not caplog.text


def test_one_response_that_does_not_fit_is_one_line() -> None:
    how = Passes(Placed(), Layout.PACKED, 0, tokens=9)
    with pytest.raises(RunError, match="Tried to allocate 2.00 GiB: one response of 3 tokens, .* is too much"):
        responses_of(how, most=2)


def test_log_probs_are_those_of_a_machine_with_more_memory(policy: ModelPolicy) -> None:
    samples = policy.sample(["a b", "c d e"], n=3, max_new_tokens=8)
    expected, width = policy.log_probs(samples), policy.models[0].config.hidden_size
    with Full(most=16 * width) as full:
        found = policy.log_probs(samples)
    assert full.failed
    torch.testing.assert_close(found, expected)


def test_an_error_anywhere_in_a_pass_changes_nothing(policy: ModelPolicy) -> None:
    samples = policy.sample(["a b", "c d e"], n=2, max_new_tokens=4)
    with Full() as whole:
        expected = policy.log_probs(samples)
    for at in range(0, whole.count, whole.count // 4 + 1):
        with Full(at):
            torch.testing.assert_close(policy.log_probs(samples), expected)
