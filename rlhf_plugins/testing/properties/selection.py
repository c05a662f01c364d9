"""Properties of a selector: every algorithm has one place, and the same place for the same situation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
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
    counted = Features(500, 200, 0.5, 3, 0.9, 1.2, 0.8, 0.1, 0.02, 0.05, 0.6, 0.1)
    asked = replace(counted, off_policy_prompts=64, off_policy_left_out=3)
    full = replace(asked, off_policy=0.4, off_policy_low=0.3, off_policy_high=0.5)
    cost = {"steps": 100.0, "sequences": 800.0, "tokens": 80_000.0, "peak_bytes": 6.0 * 2**30}
    resources = Resources(12.0, 4.0, True, priority="quality")
    yield (
        "500 pairs of which much is known",
        Situation(full, resources, algorithms, costs=dict.fromkeys(algorithms, cost)),
    )
    yield "20,000 pairs of which nothing is known", Situation(Features(20_000, 9_000), Resources(), algorithms)


def _chosen(selector: Any, words: str, situation: Situation) -> list[Choice]:
    try:
        found: list[Choice] = selector(situation)
    except ComponentError as error:
        raise Broken(words, "every algorithm once, the best first", raised(error)) from error
    return found
