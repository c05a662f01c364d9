"""A reward as a principle."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from rlhf_constitution.classified import Classifier
from rlhf_constitution.outcome import Abstain, Ok
from rlhf_constitution.principle import bound

from rlhf_plugins import component
from rlhf_plugins.testing import tiny_base, tiny_run

BRIEF = """
def score(completions):
    return [None if text == "cat" else -float(len(text.split())) for text in completions]
"""


def test_a_reward_becomes_a_value_and_its_abstention_an_abstention(tmp_path: Path) -> None:
    (tmp_path / "brief.py").write_text(BRIEF)
    reward = component("reward", "python", path=f"{tmp_path / 'brief.py'}:score")
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run")
    judge = bound(Classifier(reward=reward, center=-2.0, scale=2.0), run)
    found = judge(["why\n"] * 3, ["dog elk", "dog elk fox ant", "cat"])
    assert isinstance(found[0], Ok)
    assert isinstance(found[1], Ok)
    assert found[0].value == pytest.approx(0.5)
    assert found[1].value == pytest.approx(1 / (1 + math.exp(1)))
    assert isinstance(found[2], Abstain)
