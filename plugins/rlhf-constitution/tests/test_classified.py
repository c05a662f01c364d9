"""A reward as a principle."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from rlhf_constitution.classified import Classifier
from rlhf_constitution.constitution import Constitution
from rlhf_constitution.outcome import Abstain, Ok
from rlhf_constitution.principle import bound
from rlhf_constitution.scoring import Scorer
from rlhf_constitution.text import Matches

from rlhf_plugins import Chat, component
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


SEES = """
def score(prompts, completions):
    return [float(isinstance(prompt, list)) for prompt in prompts]
"""
CHAT = "{% for turn in messages %}{{ turn.role }} {{ turn.content }} <eos> {% endfor %}"


def test_a_reward_reads_a_conversation_as_messages_and_the_other_principles_as_text(tmp_path: Path) -> None:
    (tmp_path / "sees.py").write_text(SEES)
    base = replace(tiny_base(tmp_path / "base"), chat=Chat(CHAT))
    reward = Classifier(name="r", reward=component("reward", "python", path=f"{tmp_path / 'sees.py'}:score"))
    ours = Constitution(principles=(reward, Matches(name="m", pattern="^dog$")))
    talk = [{"role": "user", "content": "why"}]
    found = Scorer(ours, tiny_run(base, tmp_path / "run"))([talk, talk, "why\n"], ["dog", [turn("dog")], "dog"])
    assert [one.outcomes["r"].why for one in found] == [f"its reward is {r}" for r in ("1.00", "1.00", "0.00")]
    assert [one.outcomes["m"].value for one in found] == [1.0, 1.0, 1.0]


def turn(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
