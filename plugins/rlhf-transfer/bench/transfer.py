"""Runs the recipes of this package over seeds and writes docs/benchmarks/transfer.md.

    python plugins/rlhf-transfer/bench/transfer.py [--seeds 3] [--students 3] [--runs runs/transfer]

A finished run is read, not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rlhf_plugins import open_run, run_recipe

ROOT = Path(__file__).parents[3]
RECIPES = Path(__file__).parents[1] / "recipes"
OUT = ROOT / "docs" / "benchmarks" / "transfer.md"
STAGES = {
    "plain": "weak model, plain loss",
    "confident": "weak model, loss `weak_to_strong`",
    "random_errors": "labels of which a quarter is wrong at random",
    "systematic_errors": "labels by people who prefer length",
}
Metrics = Mapping[str, Any]


def main() -> None:
    """Parses the command line, runs what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--students", type=int, default=3, help="seeds of the distillation")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "transfer")
    options = parser.parse_args()
    asked = {"weak_to_strong_sandbox": options.seeds, "distill_sandbox": options.students}
    weak, small = (
        [measured(name, seed, options.runs) for seed in range(1, seeds + 1)] for name, seeds in asked.items()
    )
    folder = options.runs / "weak_to_strong_sandbox-1"
    OUT.write_text(page(weak, small, json.loads((folder / "report.json").read_text())["hardware"]))
    print(OUT.read_text())


def measured(name: str, seed: int, runs: Path) -> dict[str, Metrics]:
    """The metrics of a recipe's stages by name."""
    folder = runs / f"{name}-{seed}"
    if not folder.exists() or open_run(folder).status != "finished":
        words = [f"seed={seed}", f"output_dir={folder}"]
        run_recipe(str(RECIPES / f"{name}.yaml"), words, resume=folder.exists(), say=lambda _: None)
    return {result.name: result.metrics for result in open_run(folder).finished}


def page(weak: Sequence[Mapping[str, Metrics]], small: Sequence[Mapping[str, Metrics]], machine: Metrics) -> str:
    """Both tables."""
    rows = [_weak(title, [run[name] for run in weak]) for name, title in STAGES.items()]
    lines = [
        "# From weak to strong, and from large to small",
        "",
        f"Recipes of `plugins/rlhf-transfer`: `weak_to_strong_sandbox.yaml`, seeds: {len(weak)}, and "
        f"`distill_sandbox.yaml`, seeds: {len(small)}, "
        "by `python plugins/rlhf-transfer/bench/transfer.py "
        f"--seeds {len(weak)} --students {len(small)}` on {machine['cores']} cores ({machine['cpu']}). Means over "
        "seeds, with the deviation over seeds in brackets; accuracies are by the true reward.",
        "",
        "| supervisor | its accuracy | student | ceiling | gap recovered |",
        "|---|---|---|---|---|",
        *rows,
    ]
    if small:
        lines += ["", "| a student with one of three layers | |", "|---|---|"]
        lines += _small([run["distill"] for run in small])
    return "\n".join(lines) + "\n"


def _weak(title: str, found: Sequence[Metrics]) -> str:
    cells = [_mean([one[name]["value"] for one in found]) for name in ("weak", "student", "ceiling")]
    gaps = [one["recovered"]["value"] for one in found if one["recovered"]["value"] is not None]
    without = len(found) - len(gaps)
    left = f", {without} seed{'s' * (without > 1)} without a gap" if without else ""
    return f"| {title} | {' | '.join(cells)} | {_mean(gaps) if gaps else 'no gap'}{left if gaps else ''} |"


def _small(found: Sequence[Metrics]) -> list[str]:
    numbers = {
        "share of the teacher's weights": [one["weights"]["student"] / one["weights"]["teacher"] for one in found],
        "win rate of the teacher against the base": [
            one["win_rate_against_reference"]["teacher"]["value"] for one in found
        ],
        "win rate of the student against the base": [
            one["win_rate_against_reference"]["student"]["value"] for one in found
        ],
        "win rate of the student against the teacher": [one["win_rate_against_teacher"]["value"] for one in found],
        "share of the teacher's gain kept": [one["gain_kept"]["value"] for one in found if one["gain_kept"]],
        "tokens per second, student over teacher": [one["speedup"] for one in found],
    }
    return [f"| {name} | {_mean(values)} |" for name, values in numbers.items()]


def _mean(values: Sequence[float]) -> str:
    spread = f" ({stdev(values):.3f})" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{spread}" if values else "-"


if __name__ == "__main__":
    main()
