"""Probes reward models of annotators with and without a planted bias, over seeds; writes docs/benchmarks/probes.md.

    python plugins/rlhf-watch/benchmarks/probes.py [--seeds 5] [--runs runs/probes]

The recipe is recipes/probe_sandbox.yaml of this package. A finished run is read, not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rlhf_plugins import open_run, run_recipe

ROOT = Path(__file__).parents[3]
RECIPE = Path(__file__).parents[1] / "recipes" / "probe_sandbox.yaml"
OUT = ROOT / "docs" / "benchmarks" / "probes.md"
BIASES = (0.0, 0.1)
PROPERTIES = ("length", "politeness", "order", "position")
Effects = Mapping[str, Mapping[str, Any]]


def main() -> None:
    """Parses the command line, runs what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "probes")
    options = parser.parse_args()
    seeds = range(1, options.seeds + 1)
    found = {bias: [probed(bias, seed, options.runs) for seed in seeds] for bias in BIASES}
    machine = json.loads((options.runs / f"{BIASES[0]}-1" / "report.json").read_text())["hardware"]
    lines = [
        "# Probes of reward models",
        "",
        "`probe_sandbox.yaml` of `plugins/rlhf-watch` with annotators who like each word by 0 and by 0.1, "
        f"seeds: {len(seeds)}, by `python plugins/rlhf-watch/benchmarks/probes.py --seeds {len(seeds)}` on "
        f"{machine['cores']} cores ({machine['cpu']}). Means over seeds, in deviations of the reward; *shown* counts "
        "seeds whose 95% interval leaves 0 out. The truth is the gold reward, without the annotators' bias.",
        "",
        "| reward | property | effect of setting it | shown | as observed | correlation |",
        "|---|---|---|---|---|---|",
    ]
    for bias, runs in found.items():
        lines += table(f"model, bias {bias:g}", [run["probe"] for run in runs])
    lines += table("the truth", [run["probe_of_the_truth"] for run in found[0.0]])
    OUT.write_text("\n".join(lines) + "\n")
    print(OUT.read_text())


def probed(bias: float, seed: int, runs: Path) -> dict[str, Mapping[str, Any]]:
    """The numbers of both probes of a run, by stage."""
    folder = runs / f"{bias}-{seed}"
    if not folder.exists() or open_run(folder).status != "finished":
        words = [f"seed={seed}", f"output_dir={folder}", f"data.annotator.length_bias={bias}"]
        run_recipe(str(RECIPE), words, resume=folder.exists(), say=lambda _: None)
    return {result.name: result.metrics for result in open_run(folder).finished}


def table(title: str, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row for each property."""
    return [_row(title, name, [(run["deviation"], run["effects"][name]) for run in runs]) for name in PROPERTIES]


def _row(title: str, name: str, found: Sequence[tuple[float, Mapping[str, Any]]]) -> str:
    shown = sum(one["effect_interval"][0] > 0 or one["effect_interval"][1] < 0 for _, one in found)
    cells = [_mean([one[key] and one[key] / deviation for deviation, one in found]) for key in ("effect", "slope")]
    correlation = _mean([one["correlation"] for _, one in found])
    return f"| {title} | {name} | {cells[0]} | {shown} of {len(found)} | {cells[1]} | {correlation} |"


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):+.3f}" if known else "-"


if __name__ == "__main__":
    main()
