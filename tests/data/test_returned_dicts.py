"""Dicts that a reward function returns, found in its code before a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_plugins.components.reward import Python

CODE = """
def right(completions):
    def inner():
        return {"acc": 1}
    if not completions:
        return []
    return [{"score": 1.0, "acc": 1.0} if c else None for c in completions]

def computed(completions, key="score", more={}):
    return [{key: 1.0, "acc": 1.0} for c in completions] + [{**more} for c in []]

def nameless(completions):
    return [{"reward": 1.0, "acc": 1.0} for c in completions]

def late(completions):
    if len(completions) > 1:
        return [{"score": 1.0}, {"score": 2.0} if completions else {"acc": 1}]
    return [1.0]

async def whole(completions):
    return {"rewards": [1.0 for c in completions], "scores": []}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "r.py").write_text(CODE)
    return tmp_path / "r.py"


@pytest.mark.parametrize("function", ["right", "computed"])
def test_dicts_with_a_score_or_with_computed_keys_pass(file: Path, function: str) -> None:
    assert not Python(f"{file}:{function}").missing()


@pytest.mark.parametrize(
    ("function", "found"),
    [
        ("nameless", "returns in line 13 a dict with the keys 'reward', 'acc', without 'score': a dict has `score`"),
        ("late", "returns in line 17 a dict with the keys 'acc', without 'score'"),
        ("whole", "returns in line 21 one dict with the keys 'rewards', 'scores', not one for each response in a list"),
    ],
)
def test_dicts_without_a_score_are_found(file: Path, function: str, found: str) -> None:
    assert f"{file}:{function} {found}" in Python(f"{file}:{function}").missing()["path"]
