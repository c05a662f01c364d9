"""A trial runs once for each key, is unseen, and says in the log where it failed."""

from __future__ import annotations

import logging

import pytest
import torch
from launches import Launches

from rlhf_plugins.engine import HALF_LORA, HALF_NORMS, pretending
from rlhf_plugins.engine.half import trials


def test_it_runs_once_and_a_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    runs: list[str] = []

    def passes() -> bool:
        runs.append("passes")
        return True

    def lacks_an_operation() -> bool:
        runs.append("lacks")
        raise NotImplementedError

    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert trials.passes(HALF_LORA, "one", passes)
            assert not trials.passes(HALF_LORA, "other", lacks_an_operation)
            assert not trials.passes(HALF_NORMS, "one", lambda: False)
    assert runs == ["passes", "lacks"]
    assert trials.results() == {HALF_LORA.what: [True, False], HALF_NORMS.what: [False]}
    assert caplog.messages == [
        f"{path.what}: left to the model's own computation, since a trial failed" for path in (HALF_LORA, HALF_NORMS)
    ]


def test_nothing_is_tried_where_a_device_is_pretended() -> None:
    with pretending("cuda"):
        assert trials.passes(HALF_LORA, "one", lambda: bool(1 // 0))
    assert not trials.results()


def test_what_counts_or_saves_tensors_sees_nothing_and_gradients_are_recorded() -> None:
    def trial() -> bool:
        return bool((torch.ones(2, requires_grad=True) * 2).requires_grad)

    hooks = torch.autograd.graph.saved_tensors_hooks(lambda _: 1 // 0, lambda each: each)
    with hooks, Launches() as found, torch.inference_mode():
        assert trials.passes(HALF_LORA, "one", trial)
    assert found.all == 0


def test_exact_numbers_and_two_roundings_of_them_agree() -> None:
    exact = torch.linspace(-3, 3, 100)
    rounded = exact.bfloat16()
    assert trials.as_rounded([rounded], [exact])
    assert trials.as_rounded([(rounded / 3 * 3)], [exact.bfloat16().float()])
    assert not trials.as_rounded([rounded * 1.02], [exact])
    assert not trials.as_rounded([torch.full_like(rounded, torch.nan)], [exact])
    assert not trials.within_rounding([torch.full_like(exact, torch.nan)], [exact], torch.bfloat16)
    assert trials.within_rounding([exact * 1.01], [exact], torch.bfloat16)
    assert not trials.within_rounding([exact * 1.02], [exact], torch.bfloat16)
