"""Trains PPO on a reward model, and on 5 times the same, and writes the table of docs/benchmarks/reward_unit.md.

    python benchmarks/reward_unit.py [--seeds 3] [--factor 5] [--runs runs/reward_unit]

The PPO of recipes/compare_online.yaml. What is in the reward's unit goes with it: the coefficient of a KL in the reward
and the penalty of a missing EOS. Exits with 1 when a pair of policies ends further apart than `--apart` in gold reward.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sandbox_runs import Ran, Recipe, ran, read

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "benchmarks" / "reward_unit.md"
RECIPE = ROOT / "recipes" / "compare_online.yaml"


def main() -> None:
    """Parses the command line, runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--factor", type=float, default=5.0)
    parser.add_argument("--apart", type=float, default=0.1, help="gold reward")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "reward_unit")
    options = parser.parse_args()
    recipe = both(read(RECIPE), options.factor)
    runs = [ran({**recipe, "seed": seed}, options.runs / str(seed)) for seed in range(1, options.seeds + 1)]
    OUT.write_text(page(runs, options.factor))
    print(OUT.read_text())
    apart = [abs(gold(run, "ppo") - gold(run, "ppo_scaled")) for run in runs]
    sys.exit(1 if max(apart) > options.apart else 0)


def both(recipe: Recipe, factor: float) -> Recipe:
    """One reward model, and PPO on its reward as it is and scaled, with what is in the reward's unit."""
    first, ppo, *_, last = recipe["stages"]
    scaled = {
        "reward": {"use": "weighted", "parts": ["model"], "weights": [factor]},
        "kl": {"use": "in_reward", "coef": factor * ppo["kl"]["coef"]},
        "shaping": [{"use": "missing_eos", "penalty": factor}],
    }
    return {**recipe, "stages": [first, ppo, {**ppo, **scaled, "name": "ppo_scaled"}, last]}


def gold(run: Ran, name: str) -> float:
    """The mean gold reward of a policy."""
    return float(run.report["policies"][name]["gold"]["mean"])


def page(runs: list[Ran], factor: float) -> str:
    """The page: a row per policy."""
    machine = runs[0].report["hardware"]
    lines = [
        "# PPO and the unit of the reward",
        "",
        f"PPO of `recipes/compare_online.yaml` on a reward model and on {factor:g} times its reward, with "
        "what is in its unit (`kl.coef` of `in_reward`, the penalty of a missing EOS) times as much, by "
        f"`python benchmarks/reward_unit.py` on {machine['cores']} cores ({machine['cpu']}).",
        "",
        "| reward | gold reward by seed | mean | KL |",
        "| --- | --- | --- | --- |",
        *(_row(title, name, runs) for title, name in (("x 1", "ppo"), (f"x {factor:g}", "ppo_scaled"))),
    ]
    return "\n".join(lines) + "\n"


def _row(title: str, name: str, runs: list[Ran]) -> str:
    found = [gold(run, name) for run in runs]
    kl: list[Any] = [run.report["policies"][name]["kl"] for run in runs]
    cells = (title, ", ".join(f"{value:.2f}" for value in found), f"{np.mean(found):.2f}", f"{np.mean(kl):.2f}")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
