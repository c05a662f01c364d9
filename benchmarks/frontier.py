"""Gold reward against KL of PPO, DPO and IPO as their coefficients vary: docs/benchmarks/frontier.md, .json and .png.

    python benchmarks/frontier.py [--seeds 2] [--runs runs/frontier] [--quick]

The stages are those of recipes/compare_online.yaml and recipes/quickstart.yaml with other coefficients. A seed whose
report exists already is not run again, and an interrupted one goes on with its next stage.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sandbox_runs import Ran, Recipe, ran, read

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "benchmarks"
SWEEPS = {"ppo": (0.05, 0.1, 0.2, 0.5, 1.0), "dpo": (0.2, 0.5, 1.0, 2.0), "ipo": (0.02, 0.05, 0.1, 0.3)}
MEANING = {"ppo": "kl.coef", "dpo": "beta", "ipo": "beta"}


def main() -> None:
    """Parses the command line, runs what is missing and writes the page of what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "frontier")
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps: to see that it runs")
    options = parser.parse_args()
    recipe = swept(quick=options.quick)
    runs: list[Ran] = []
    for seed in range(1, (1 if options.quick else options.seeds) + 1):
        runs.append(ran({**recipe, "seed": seed}, options.runs / f"{'quick_' if options.quick else ''}{seed}"))
        points = [found for algorithm in SWEEPS for found in measured(algorithm, runs)]
        if not options.quick:
            OUT.mkdir(parents=True, exist_ok=True)
            (OUT / "frontier.json").write_text(
                json.dumps({"machine": runs[0].report["hardware"], "points": points}, indent=1)
            )
            (OUT / "frontier.md").write_text(page(points, runs))
            draw(points, runs, OUT / "frontier.png")
    print(page(points, runs))


def swept(quick: bool = False) -> Recipe:
    """The reward model, then every algorithm under each of its coefficients, then the evaluation."""
    compared, quickstart = read(ROOT / "recipes" / "compare_online.yaml"), read(ROOT / "recipes" / "quickstart.yaml")
    stages = {stage.get("name", stage["stage"]): stage for stage in [*quickstart["stages"], *compared["stages"]]}
    middle = [with_coefficient(stages[name], name, value) for name, values in SWEEPS.items() for value in values]
    if quick:
        middle = [{**stage, "trainer": {**stage["trainer"], "max_steps": 4}} for stage in middle]
    return {**compared, "stages": [stages["reward_model"], *middle, stages["evaluate"]]}


def with_coefficient(stage: dict[str, Any], algorithm: str, value: float) -> dict[str, Any]:
    """The stage under another coefficient, and another name."""
    changed = {"kl": {"coef": value}} if algorithm == "ppo" else {"loss": {"use": algorithm, "beta": value}}
    return {**stage, **changed, "name": named(algorithm, value)}


def named(algorithm: str, value: float) -> str:
    """What the stage is called."""
    return f"{algorithm}_{value}"


def measured(algorithm: str, runs: Sequence[Ran]) -> list[dict[str, Any]]:
    """Gold and KL under each coefficient, by seed."""
    points = []
    for value in SWEEPS[algorithm]:
        name = named(algorithm, value)
        found = [run.report["policies"][name] for run in runs if name not in run.stopped]
        points.append(
            {
                "algorithm": algorithm,
                "coefficient": value,
                "gold": [policy["gold"]["mean"] for policy in found],
                "kl": [policy["kl"] for policy in found],
                "stopped": [run.stopped[name] for run in runs if name in run.stopped],
            }
        )
    return points


def page(points: Sequence[dict[str, Any]], runs: Sequence[Ran]) -> str:
    """What was run, where, and the table."""
    hardware = runs[0].report["hardware"]
    supervised = [run.report["policies"]["base"]["gold"]["mean"] for run in runs]
    lines = [
        "# Gold reward against KL",
        "",
        f"By `python benchmarks/frontier.py` on {hardware['cores']} cores ({hardware['cpu']}), seeds 1 to "
        f"{len(runs)}; means over seeds. Gold is the sandbox's true reward on 128 held-out prompts, KL is to the "
        f"supervised policy, in nats a response. The supervised policy has {np.mean(supervised):.2f}.",
        "",
        "![gold reward against KL](frontier.png)",
        "",
        "| algorithm | coefficient | KL | gold reward |",
        "| --- | --- | --- | --- |",
        *(line(point) for point in points),
        "",
        *(f"- {p['algorithm']} at {p['coefficient']} stopped: {why}" for p in points for why in p["stopped"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def line(point: dict[str, Any]) -> str:
    """One row of the table."""
    coefficient = f"{MEANING[point['algorithm']]} {point['coefficient']}"
    numbers = [f"{np.mean(point[key]):.2f}" if point[key] else "-" for key in ("kl", "gold")]
    return f"| {point['algorithm']} | {coefficient} | {' | '.join(numbers)} |"


def draw(points: Sequence[dict[str, Any]], runs: Sequence[Ran], file: Path) -> None:
    """A curve an algorithm, a dot a coefficient, with every seed behind it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    supervised = float(np.mean([run.report["policies"]["base"]["gold"]["mean"] for run in runs]))
    axes.axhline(supervised, color="gray", linestyle=":", label="supervised")
    for number, algorithm in enumerate(SWEEPS):
        mine = [point for point in points if point["algorithm"] == algorithm and point["gold"]]
        means = sorted((float(np.mean(point["kl"])), float(np.mean(point["gold"]))) for point in mine)
        axes.plot(*zip(*means, strict=True), "o-", color=f"C{number}", label=algorithm)
        for point in mine:
            axes.plot(point["kl"], point["gold"], ".", color=f"C{number}", alpha=0.4)
    axes.set(xlabel="KL to the supervised policy, nats a response", ylabel="gold reward")
    axes.legend()
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
