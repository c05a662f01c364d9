"""Answers of policies: where they come from is kept, worse ones are marked, useless ones are counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from rlhf_collect.generate import Plan, _useless, answered
from rlhf_collect.store.rows import Asked

from rlhf_plugins import DataError
from rlhf_plugins.testing import tiny_base


def test_each_policy_answers_at_each_temperature_and_worse_answers_are_marked(tmp_path: Path) -> None:
    base = str(tiny_base(tmp_path).path)
    plan = Plan((base,), (0.7, 1.0), each=2, longest=8, negatives=("hot", "truncated"))
    rows = [Asked("", "what is a frog?", ()), Asked("", "and a cobra?", ())]
    found = list(answered(rows, plan, Counter()))
    origins = [{key: one.origin.get(key) for key in ("temperature", "negative")} for one in found[0].answers]
    assert origins[:4] == [{"temperature": t, "negative": None} for t in (0.7, 0.7, 1.0, 1.0)]
    assert [one["negative"] for one in origins[4:]] == ["hot", "truncated"]
    again = list(answered(rows, plan, Counter()))
    assert again == found


@pytest.mark.parametrize(("text", "reason"), [(" ", "empty answers"), ("I'm sorry, no.", "refusals"), ("a frog", "")])
def test_what_nobody_should_be_shown_is_counted(text: str, reason: str) -> None:
    left_out: Counter[str] = Counter()
    assert _useless(text, left_out) is bool(reason)
    assert +left_out == ({reason: 1} if reason else {})


def test_an_unknown_negative_is_refused() -> None:
    with pytest.raises(DataError, match=r"unknown negative 'cold' \(known: hot, truncated\)"):
        Plan(("runs/a",), negatives=("cold",))
