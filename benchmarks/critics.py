"""Trains PPO on the sandbox with each kind of critic under three seeds and writes docs/benchmarks/critics.md and .json.

    python benchmarks/critics.py [--seeds 3] [--runs runs/critics] [--quick]

The recipe is recipes/quickstart.yaml with half the steps of PPO, once for each `value`. A seed whose report exists
already is not run again, and an interrupted one goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from online import row, spread
from sandbox_runs import Ran, Recipe, ran, read

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "benchmarks"
RECIPE = ROOT / "recipes" / "quickstart.yaml"
STEPS = 160
WINDOWS = ("steps 1 to 10", "steps 11 to 20", "the last ten")  # of the explained variance, which is logged every ten
HEADER = ("`value`", "gold reward by seed", "KL", *(f"explained variance, {window}" for window in WINDOWS))


def main() -> None:
    """Parses the command line, runs what is missing and writes the table of what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "critics")
    parser.add_argument("--quick", action="store_true", help="one seed, 24 steps: to see that it runs")
    options = parser.parse_args()
    recipe, critics = recipe_of_critics(read(RECIPE), 24 if options.quick else STEPS)
    if options.quick:
        recipe["data"] = {**recipe["data"], "prompts": 40}
    runs: list[Ran] = []
    for seed in range(1, (1 if options.quick else options.seeds) + 1):
        runs.append(ran({**recipe, "seed": seed}, options.runs / f"{'quick_' if options.quick else ''}{seed}"))
        rows = [{**row(name, runs), "value": value, **explained(name, runs)} for name, value in critics.items()]
        if not options.quick:
            (OUT / "critics.json").write_text(
                json.dumps({"machine": runs[0].report["hardware"], "rows": rows}, indent=1)
            )
            (OUT / "critics.md").write_text(page(rows, runs))
    print(page(rows, runs))


def recipe_of_critics(recipe: Recipe, steps: int) -> tuple[Recipe, dict[str, Any]]:
    """The reward model and the evaluation of a recipe with one PPO for each critic between, and the critics by name."""
    reward_model, ppo, evaluate = (
        next(stage for stage in recipe["stages"] if stage["stage"] == kind)
        for kind in ("reward_model", "online", "evaluate")
    )
    critics = {
        "shared": {},
        "shared_warm_up": {"warmup_steps": 20},
        "adapter": {"network": "adapter", "adapter": recipe["adapter"]},
        "reward": {"start": "reward"},
        "reward_warm_up": {"start": "reward", "warmup_steps": 20},
    }
    trainer = {**ppo["trainer"], "max_steps": steps, "logging_steps": 10}
    stages = [{**ppo, "name": name, "value": value, "trainer": trainer} for name, value in critics.items()]
    return {**recipe, "stages": [reward_model, *stages, evaluate]}, critics


def explained(name: str, runs: Sequence[Ran]) -> dict[str, list[float]]:
    """The explained variance of one critic in each window, by seed."""
    stages = [stage for run in runs for stage in run.report["stages"] if stage["name"] == name]
    points = [[value for _, value in stage["curves"]["explained_variance"]["points"]] for stage in stages]
    return {window: [logged[at] for logged in points] for window, at in zip(WINDOWS, (0, 1, -1), strict=True)}


def page(rows: Sequence[dict[str, Any]], runs: Sequence[Ran]) -> str:
    """What was run, where, and the table."""
    hardware, steps = runs[0].report["hardware"], runs[0].report["recipe"]["stages"][1]["trainer"]["max_steps"]
    lines = [
        "# Critics of PPO",
        "",
        f"`recipes/quickstart.yaml` with {steps} steps of PPO under seeds 1 to {len(runs)}, by `python "
        f"benchmarks/critics.py` on {hardware['cores']} cores ({hardware['cpu']}): one reward model a seed, and one "
        "policy for each `value` of the stage `online`. Gold is the sandbox's true reward on 128 held-out prompts, "
        f"whose 95% interval in one run is about ±{half_width(runs):.2f}; KL is to the base, in nats a response. "
        "Explained variance is of the returns by the critic: 1 is perfect, and 0 is a critic that says the mean.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + " --- |" * len(HEADER),
        *(line(found) for found in rows),
        "",
        *(f"- {found['policy']}, seed {s}: {why}" for found in rows for s, why in found["stopped"].items()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def half_width(runs: Sequence[Ran]) -> float:
    """Half the width of the interval of a policy's gold reward, the mean of all trainings."""
    gold = [p["gold"] for run in runs for name, p in run.report["policies"].items() if name != "base"]
    return float(np.mean([(found["high"] - found["low"]) / 2 for found in gold]))


def line(found: dict[str, Any]) -> str:
    """One row of the table."""
    value = found["value"] or {"network": "shared"}
    written = ", ".join(f"{k}: {'...' if isinstance(v, dict) else v}" for k, v in value.items())
    gold = ", ".join(f"{mean:.2f}" for mean in found["gold"])
    windows = [spread(found[window]) for window in WINDOWS]
    cells = [f"`{{{written}}}`", gold, spread(found["kl"]), *windows]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
