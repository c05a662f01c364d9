"""What holds of a selector: every algorithm has one place, and the same place for the same situation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlhf_plugins.contract.selection import Choice, Features, Resources, Situation
from rlhf_plugins.errors import ComponentError
from rlhf_plugins.testing.conformance import holds_of
from rlhf_plugins.testing.subject import Broken, Subject, expect, raised


@holds_of("selector")
def every_algorithm_is_ranked(subject: Subject) -> None:
    """An algorithm that is left out or named twice cannot be compared with the others; nor can an order that varies."""
    selector = subject.made()
    if selector.builds:
        return
    for words, situation in situations():
        said, again = ([choice.algorithm for choice in _chosen(selector, words, situation)] for _ in range(2))
        expect(said == again, words, f"the same order twice, {said}", str(again))


def situations() -> Iterator[tuple[str, Situation]]:
    """Data of which much is known, and of which nothing is."""
    algorithms = ("dpo", "ipo", "ppo", "dpo_then_ppo")
    full = Features(500, 200, 0.5, 3, 0.9, 1.2, 0.8, 0.1, 0.02, 0.05, 0.6, 0.1)
    yield (
        "500 pairs of which much is known",
        Situation(full, Resources(12.0, 4.0, True, priority="quality"), algorithms),
    )
    yield "20,000 pairs of which nothing is known", Situation(Features(20_000, 9_000), Resources(), algorithms)


def _chosen(selector: Any, words: str, situation: Situation) -> list[Choice]:
    try:
        found: list[Choice] = selector(situation)
    except ComponentError as error:
        raise Broken(words, "every algorithm once, the best first", raised(error)) from error
    return found
