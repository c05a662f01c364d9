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


def test_ppo_is_compared_with_dpo_and_ipo_over_the_seeds_of_a_suite(tmp_path: Path) -> None:
    """Distances from the medians are .12 on the mean for PPO and IPO, and 1.2 for DPO: F(1, 8) is 0, and
    5 * 2 * .54^2 / (2.828 / 8) = 8.25, whose p of .0207 is doubled."""
    golds = {"ppo": [1.8, 1.9, 2.0, 2.1, 2.2], "ipo": [2.2, 2.1, 2.0, 1.9, 1.8], "dpo": [0.0, 1.0, 2.0, 3.0, 4.0]}
    rows = [{"policy": name, "gold": golds["ppo"], "diverged": 0} for name in ("ppo", "rloo")]
    runs = [
        {"task": "clean", "algorithm": name, "status": "finished", "scores": [gold, gold]}
        for name, of in golds.items()
        for gold in of
    ]
    (tmp_path / "online.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "suite_stability.json").write_text(json.dumps({"runs": runs}))
    text = " ".join(seeds(tmp_path))
    assert "| clean | dpo | 5 | 2.00 | 1.58 | 0.00 | 4.00 |" in text
    assert "(Brown and Forsythe 1974, corrected for their number): rloo p = 1.00." in text
    assert "Than that of DPO and IPO at equal FLOPs: ipo p = 1.00, dpo p = 0.04." in text
