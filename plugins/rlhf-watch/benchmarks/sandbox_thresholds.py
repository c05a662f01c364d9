"""Fits the thresholds that are shipped for the sandbox, and counts the alarms of fresh runs.

    python plugins/rlhf-watch/benchmarks/sandbox_thresholds.py [--clean 99] [--fresh 4] [--hacked 4]

Clean runs are those of recipes/clean_sandbox.yaml with seeds of their own, below --runs; what has finished is not run
again. Writes rlhf_watch/alarms/sandbox.json. Fresh clean runs have other seeds; in hacked ones the annotators like each
word by 0.3 and nothing holds the policy (`kl.coef` 0). Prints which monitors alarm in them, and when; and how many
clean runs alarm by thresholds that are fitted to others, two thirds of them in ten random splits.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rlhf_watch.alarms.calibration import calibrate
from rlhf_watch.alarms.limits import SHIPPED, Limits
from rlhf_watch.alarms.watched import CURVE

from rlhf_plugins import open_run, run_recipe

HERE = Path(__file__).resolve()
RECIPE = HERE.parents[1] / "recipes" / "clean_sandbox.yaml"


def trained(folder: Path, seed: int, hacked: bool = False) -> Path:
    """A run of the recipe, finished before or now."""
    if not (folder / "status.json").exists() or open_run(folder).status != "finished":
        recipe: dict[str, Any] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
        if hacked:
            recipe["data"]["annotator"] = {"length_bias": 0.3}
            recipe["stages"][1]["kl"] = {"coef": 0.0}
        run_recipe({**recipe, "seed": seed, "output_dir": str(folder)})
    return folder


def alarmed(folder: Path, found: Limits) -> Mapping[str, int]:
    """The monitors whose statistic exceeds its threshold in a run, each with the first such step."""
    first: dict[str, int] = {}
    for row in open_run(folder).metrics("online"):
        for name, one in found.monitors.items():
            if row.get(CURVE + name, 0.0) > one["threshold"]:
                first.setdefault(name, row["step"])
    return first


def held_out(clean: list[Path], splits: int = 10) -> str:
    """How many clean runs alarm by thresholds that were fitted to others."""
    rng, cut, alarms = random.Random(0), 2 * len(clean) // 3, 0
    for _ in range(splits):
        shuffled = rng.sample(clean, len(clean))
        found = calibrate(shuffled[:cut], 1 / (cut + 1))
        alarms += sum(bool(alarmed(run, found)) for run in shuffled[cut:])
    return f"{alarms} alarms in {splits * (len(clean) - cut)} runs, fitted to {cut} others at {1 / (cut + 1):.1%}"


def machine() -> str:
    """Processor and cores."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    """Trains, fits, writes and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clean", type=int, default=99)
    parser.add_argument("--fresh", type=int, default=4)
    parser.add_argument("--hacked", type=int, default=4)
    parser.add_argument("--runs", type=Path, default=Path("runs/thresholds"))
    options = parser.parse_args()
    clean = [trained(options.runs / f"clean{seed}", seed) for seed in range(options.clean)]
    found = calibrate(clean, 1 / (options.clean + 1))
    script = f"{HERE.relative_to(HERE.parents[1])} --clean {options.clean}"
    seeds = f"0 to {options.clean - 1}"
    fitted = {"recipe": RECIPE.name, "seeds": seeds, "script": script, "machine": machine()}
    replace(found, fitted=fitted).write(SHIPPED)
    print(f"held out: {held_out(clean)}")
    for kind, count in (("fresh", options.fresh), ("hacked", options.hacked)):
        runs = [trained(options.runs / f"{kind}{seed}", 1000 + seed, kind == "hacked") for seed in range(count)]
        each = [alarmed(run, found) for run in runs]
        print(f"{kind}: {sum(map(bool, each))} of {count} runs alarm: {each}")


if __name__ == "__main__":
    main()
