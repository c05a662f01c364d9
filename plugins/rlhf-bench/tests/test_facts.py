"""The page of facts is what the code computes now, from the curves that are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rlhf_bench.facts import bandits, enumerable, main, over_optimisation

BENCHMARKS = Path(__file__).parents[3] / "docs" / "benchmarks"


@pytest.mark.slow
def test_the_page_of_facts_is_not_stale() -> None:
    curves = json.loads((BENCHMARKS / "over_optimisation.json").read_text())
    text = "\n".join([*bandits(), *enumerable(), *over_optimisation(curves, "over_optimisation.json")])
    assert (BENCHMARKS / "facts.md").read_text().endswith(text + "\n")


def test_it_says_how_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["facts"])
    with pytest.raises(SystemExit, match="PAGE.md"):
        main()
