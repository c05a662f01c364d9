"""The page of facts is what the code computes now, from what is kept of the runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from math import log, sqrt
from pathlib import Path
from typing import Any

import pytest
from rlhf_bench.facts import main, page
from rlhf_bench.measured import ensembles, frontiers, over_optimisation, seeds

BENCHMARKS = Path(__file__).parents[3] / "docs" / "benchmarks"


@pytest.mark.slow
def test_the_page_of_facts_is_not_stale() -> None:
    assert (BENCHMARKS / "facts.md").read_text() == "\n".join(page(BENCHMARKS)) + "\n"


def test_it_says_how_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["facts"])
    with pytest.raises(SystemExit, match="FOLDER"):
        main()


@pytest.mark.parametrize("part", [over_optimisation, frontiers, ensembles, seeds])
def test_a_part_without_its_runs_names_the_command(part: Callable[[Path], Iterator[str]], tmp_path: Path) -> None:
    assert list(part(tmp_path))[-1].startswith("Not run: `")


def test_gaos_form_is_fitted_to_what_a_suite_climbed(tmp_path: Path) -> None:
    """Gains of d (0.8 - 0.4 log d), which are 0 at d = e^2 and highest at d = e, a KL of 7.4."""
    kl = [0.0, *(0.01 * n * n for n in range(2, 80))]
    gold = [2.0, *(2 + sqrt(k) * (0.8 - 0.4 * log(sqrt(k))) for k in kl[1:])]
    runs = [{"task": "few", "algorithm": "single", "status": "finished", "climb": {"kl": kl, "gold": gold}}]
    runs += [{**runs[0], "status": "failed"}, {**runs[0], "algorithm": "dpo", "climb": None}]
    (tmp_path / "suite_over_optimisation.json").write_text(json.dumps({"runs": runs}))
    text = " ".join(over_optimisation(tmp_path))
    a, b = (text.split("| few | single | rl | ")[1].split(" | ")[place].split(" ±")[0] for place in (0, 1))
    assert (float(a), float(b)) == pytest.approx((0.8, 0.4), abs=0.02)
    assert "Gold rises, turns and falls in 1 of 1 settings, and the form of reinforcement learning fits better" in text
    assert "dpo" not in text


def test_policies_are_compared_with_the_one_that_climbs_a_single_model(tmp_path: Path) -> None:
    """The single model's curve goes to 4 nats and gains 1, the other to 9, and gains 2 there and 4/3 at sqrt(4)."""
    course = {"start": 2.0, "highest": 2.9, "end": 2.4, "kl_end": 9.0}
    clear, chance = ({"mean": 0.2, "low": low, "high": 0.4, "p": 0.5} for low in (0.1, -0.1))
    climbs = [climb("single", course, None, None), climb("worst_case", {**course, "end": 2.7}, clear, chance)]
    runs = [
        {"task": "flips", "algorithm": name, "status": "finished", "climb": line(far, gain)}
        for name, far, gain in (("single", 2.0, 1.0), ("worst_case", 3.0, 2.0))
    ]
    found = {"baseline": "single", "climbs": climbs, "runs": runs}
    (tmp_path / "suite_ensembles.json").write_text(json.dumps(found))
    text = " ".join(ensembles(tmp_path))
    assert "| single | 2.00 | 2.90 | - | 2.40 | 9.00 | - | +1.00 |" in text
    assert "| worst_case | 2.00 | 2.90 | +0.20 [+0.10, +0.40] | 2.70 | 9.00 | +0.20 [-0.10, +0.40] | +1.33 |" in text
    assert "not corrected: worst_case; below: none. At 4.0 nats" in text


def line(far: float, gain: float) -> dict[str, list[float]]:
    """Gold that rises with sqrt(KL) to `far` and stays there."""
    steps = [*(far * n / 1000 for n in range(1000)), *[far] * 5]
    return {"kl": [step * step for step in steps], "gold": [2 + gain * step / far for step in steps]}


def climb(name: str, course: dict[str, float], highest: Any, end: Any) -> dict[str, Any]:
    return {"algorithm": name, "course": course, "highest": highest, "end": end}


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
