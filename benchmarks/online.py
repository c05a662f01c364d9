"""Runs recipes/compare_online.yaml under ten seeds and writes docs/benchmarks/online.md and .json.

    python benchmarks/online.py [--seeds 10] [--runs runs/online] [--quick]

A seed whose report exists already is not run again, and an interrupted one goes on. A training counts as diverged when
it stopped with an error, or ended further than 20 nats from the base.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sandbox_runs import Ran, ran, read

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "benchmarks"
RECIPE = ROOT / "recipes" / "compare_online.yaml"
FURTHEST = 20.0  # nats
HEADER = ("policy", "gold reward", "lowest seed", "above base", "diverged", "KL", "length", "win rate", "seconds")


def main() -> None:
    """Parses the command line, runs what is missing and writes the table of what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "online")
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps: to see that it runs")
    options = parser.parse_args()
    recipe = read(RECIPE)
    if options.quick:
        recipe = shortened(recipe)
    runs: list[Ran] = []
    for seed in range(1, (1 if options.quick else options.seeds) + 1):
        runs.append(ran({**recipe, "seed": seed}, options.runs / f"{'quick_' if options.quick else ''}{seed}"))
        rows = [row(name, runs) for name in ("base", *trained(recipe))]
        if not options.quick:
            OUT.mkdir(parents=True, exist_ok=True)
            (OUT / "online.json").write_text(
                json.dumps({"machine": runs[0].report["hardware"], "rows": rows}, indent=1)
            )
            (OUT / "online.md").write_text(page(rows, runs))
    print(page(rows, runs))


def shortened(recipe: dict[str, Any]) -> dict[str, Any]:
    """Four updates a policy."""
    stages = [{**stage, "trainer": {**stage["trainer"], "max_steps": 4}} for stage in recipe["stages"][:-1]]
    return {**recipe, "data": {**recipe["data"], "prompts": 40}, "stages": [*stages, recipe["stages"][-1]]}


def trained(recipe: dict[str, Any]) -> list[str]:
    """Names of the policies that the recipe trains."""
    return [stage["name"] for stage in recipe["stages"] if stage["stage"] == "online"]


def row(name: str, runs: Sequence[Ran]) -> dict[str, Any]:
    """One policy over all seeds; lists are by seed, without those in which it stopped."""
    found = [run.report["policies"][name] for run in runs if name not in run.stopped]
    below = [run.report["policies"]["base"]["gold"]["mean"] for run in runs if name not in run.stopped]
    kl = [policy["kl"] for policy in found]
    return {
        "policy": name,
        "seeds": len(runs),
        "gold": [policy["gold"]["mean"] for policy in found],
        "kl": kl,
        "above_base": sum(p["gold"]["mean"] > under for p, under in zip(found, below, strict=True)),
        "diverged": len(runs) - len(found) + sum(value is not None and value > FURTHEST for value in kl),
        "stopped": {str(i + 1): run.stopped[name] for i, run in enumerate(runs) if name in run.stopped},
        "length": [policy["length"] for policy in found],
        "win_rate": [(policy["win_rate"] or {}).get("mean") for policy in found],
        "seconds": [policy["seconds"] for policy in found],
    }


def page(rows: Sequence[dict[str, Any]], runs: Sequence[Ran]) -> str:
    """What was run, where, and the table."""
    hardware, trainer = runs[0].report["hardware"], runs[0].report["recipe"]["stages"][1]["trainer"]
    rollouts = trainer["max_steps"] // (trainer["num_iterations"] * trainer["steps_per_generation"])
    episodes = rollouts * trainer["per_device_train_batch_size"] * trainer["steps_per_generation"]
    accuracy = [run.report["reward_model"]["accuracy"] for run in runs]
    lines = [
        "# Online algorithms at equal numbers of episodes",
        "",
        f"`recipes/compare_online.yaml` under seeds 1 to {len(runs)}, by `python benchmarks/online.py` on "
        f"{hardware['cores']} cores ({hardware['cpu']}). Each policy wrote {episodes} episodes, against one reward "
        f"model a seed (accuracy on held-out pairs {spread(accuracy)}); gold is the sandbox's true reward on 128 "
        "held-out prompts, KL is to the base, in nats a response. Diverged: stopped with an error, or "
        f"ended beyond {FURTHEST:.0f} nats. Seconds share the machine with other work, so compare them with care.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + " --- |" * len(HEADER),
        *(line(found) for found in rows),
        "",
        *(f"- {found['policy']}, seed {s}: {why}" for found in rows for s, why in found["stopped"].items()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def line(found: dict[str, Any]) -> str:
    """One row of the table."""
    is_reference = found["policy"] == "base"
    counts = ("-", "-") if is_reference else (f"{found[k]} of {found['seeds']}" for k in ("above_base", "diverged"))
    cells = [found["policy"], spread(found["gold"]), f"{min(found['gold'], default=np.nan):.2f}", *counts]
    rest = [spread(found["kl"]), spread(found["length"], 1), spread(found["win_rate"]), spread(found["seconds"], 0)]
    return "| " + " | ".join([*cells, *rest]) + " |"


def spread(values: Sequence[float | None], digits: int = 2) -> str:
    """Mean and standard deviation over seeds, or `-`."""
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.{digits}f} ± {np.std(known):.{digits}f}" if known else "-"


if __name__ == "__main__":
    main()
