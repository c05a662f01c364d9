"""The page of facts is what the code computes now, from what is kept of the runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rlhf_bench.facts import main, page
from rlhf_bench.measured import ensembles, frontiers, seeds

BENCHMARKS = Path(__file__).parents[3] / "docs" / "benchmarks"


@pytest.mark.slow
def test_the_page_of_facts_is_not_stale() -> None:
    assert (BENCHMARKS / "facts.md").read_text() == "\n".join(page(BENCHMARKS)) + "\n"


def test_it_says_how_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["facts"])
    with pytest.raises(SystemExit, match="FOLDER"):
        main()


@pytest.mark.parametrize("part", [frontiers, ensembles, seeds])
def test_a_part_without_its_runs_names_the_command(part: Callable[[Path], Iterator[str]], tmp_path: Path) -> None:
    assert list(part(tmp_path))[-1].startswith("Not run: `")


def test_four_models_are_compared_with_one_seed_by_seed(tmp_path: Path) -> None:
    golds = {"bradley_terry": [0.8, 0.6], "ensemble of 4 models": [0.75, 0.75]}
    golds |= dict.fromkeys(("ensemble of 5 heads", "ensemble of 4 models, resampled"), [0.7, 0.6])
    rows = [{"model": name, "gold": sum(of) / 2, "gold_by_seed": of} for name, of in golds.items()]
    (tmp_path / "reward_sandbox.json").write_text(json.dumps({"flips": {"rows": rows}}))
    text = " ".join(ensembles(tmp_path))
    assert (
        "Four models are above one in 1 of 2 seeds, by +0.050; five heads on one trunk differ from it by -0.050" in text
    )
