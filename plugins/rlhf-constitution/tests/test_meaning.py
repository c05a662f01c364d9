"""A revision that says something else is rejected, and so is one about which nobody can say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rlhf_constitution.assistant import Assistant, Chosen, Written
from rlhf_constitution.ledger import Ledger
from rlhf_constitution.meaning import SAME, same_meaning
from rlhf_constitution.outcome import Failed
from rlhf_constitution.quoting import quotations

from rlhf_plugins import Run


@dataclass(frozen=True)
class Counting(Assistant):
    """P(the same) is the share of the first answer's words that the new answer keeps."""

    likes_a: float = 0.0  # what the first choice gains
    answers: bool = True

    def build(self, run: Run, ledger: Ledger) -> Counting:
        return self

    def choose(self, questions: Sequence[str], choices: Sequence[str]) -> list[Chosen]:
        return [self.chosen(text) if self.answers else Failed("no connecon") for text in questions]

    def chosen(self, text: str) -> Chosen:
        quoted = quotations(text)
        first, new = (set(quoted[name].split()) for name in ("First answer", "New answer"))
        same = len(first & new) / len(first)
        a = min(1.0, (same if f"A: {SAME}" in text else 1 - same) + self.likes_a)
        return a, 1 - a

    def write(self, questions: Sequence[str], seed: int) -> list[Written]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("assistant", "revision", "reason"),
    [
        (Counting(), "the camel eats grass please", ""),
        (Counting(), "the fox sleeps here", "it means something else, with probability 0.75"),
        (Counting(likes_a=0.2), "the fox sleeps here", "it means something else, with probability 0.75"),
        (
            Counting(likes_a=0.9),
            "the camel eats grass",
            "nobody could say whether it keeps the meaning: the answer d",
        ),
        (Counting(answers=False), "the camel eats grass", "nobody could say whether it keeps the meaning: no connec"),
    ],
)
def test_a_revision_has_to_say_the_same_otherwise(
    tmp_path: Path, assistant: Counting, revision: str, reason: str
) -> None:
    run: Any = SimpleNamespace(folder=tmp_path, spec=repr)
    check = same_meaning(assistant, run)
    found = check("what does the camel eat?", "the camel eats grass", revision)
    assert found.startswith(reason) if reason else not found
