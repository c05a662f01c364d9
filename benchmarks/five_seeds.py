"""Runs the quickstart recipe under several seeds and writes the table of docs/benchmarks/quickstart.md.

    python benchmarks/five_seeds.py [--seeds 5] [--runs runs/five_seeds]

The recipe's coefficients were chosen under other seeds (0, 100, 102). A seed whose report exists already is
not run again. Exits with 1 when a trained policy's 95% interval of the gold
reward is not clear of the reference's in some seed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sandbox_runs import finished

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "benchmarks"
RECIPE = ROOT / "recipes" / "quickstart.yaml"
HEADER = (
    "policy",
    "gold reward by seed",
    "mean",
    "score (0-100)",
    "out of distribution",
    "KL",
    "win rate",
    "length",
    "seconds",
    "GiB",
)
CHOICE = (
    "## How DPO and IPO were set",
    "",
    "By the mean score of six responses (eight in the first row) to each of 256 held-out prompts, between a base that "
    "was sampled 64 times and the best of these 64: a standard error of 1.4 points. Of near equals the one was chosen "
    "that did better on prompts of training and out of distribution.",
    "",
    "| loss | beta | learning rate | batch | epochs | seed 100 | seed 0 | seed 102 |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
    "| dpo, before | 1.0 | 5e-4 | 64 | 2 | 55.2 | 60.6 | - |",
    "| dpo | 1.0 | 1e-3 | 64 | 2 | 60.3 | - | - |",
    "| dpo | 1.0 | 1e-3 | 64 | 1 | 58.8 | - | - |",
    "| dpo | 1.0 | 2e-3 | 64 | 1 | 60.6 | 63.0 | - |",
    "| dpo, chosen | 0.6 | 1e-3 | 64 | 1 | 60.6 | 63.0 | 60.5 |",
    "| dpo | 0.3 | 5e-4 | 64 | 2 | 47.6 | - | - |",
    "| dpo | 2.0 | 1e-3 | 64 | 2 | 50.4 | - | - |",
    "| dpo + sft | 1.0 | 1e-3 | 64 | 2 | 59.2 | - | - |",
    "| ipo, before | 0.1 | 5e-4 | 64 | 2 | 61.3 | - | - |",
    "| ipo | 0.1 | 1e-3 | 64 | 2 | 50.9 | - | - |",
    "| ipo | 0.2 | 5e-4 | 64 | 2 | 53.4 | - | - |",
    "| ipo | 0.1 | 7e-4 | 64 | 1 | 60.8 | - | - |",
    "| ipo, chosen | 0.1 | 5e-4 | 32 | 1 | 61.5 | 63.7 | 63.5 |",
    "",
    "Before, the recipe sampled one response to each of the 128 prompts, and the scores of seeds 1 to 5 were 48 to 64 "
    "for DPO and 52 to 67 for IPO. Six responses of these same policies to each of 256 prompts gave 58 to 59 and 58 to "
    "64: the measurement varied more than the policies. The settings of now were better under the seeds of the choice "
    "and train half as long; of more responses the table shows that DPO's policies differ more by seed than before.",
)


def main() -> None:
    """Parses the command line, runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "five_seeds")
    options = parser.parse_args()
    reports = [run(seed, options.runs / str(seed)) for seed in range(1, options.seeds + 1)]
    OUT.mkdir(parents=True, exist_ok=True)
    rows = [row(name, reports) for name in reports[0]["policies"]]
    (OUT / "quickstart.json").write_text(json.dumps(rows, indent=1) + "\n")
    (OUT / "quickstart.md").write_text(page(rows, reports))
    print(page(rows, reports))
    sys.exit(0 if all(r["clear_of_reference"] for r in rows if r["trained"]) else 1)


def run(seed: int, folder: Path) -> dict[str, Any]:
    """The report of the quickstart under one seed."""
    if not finished(folder):
        command = ["-m", "rlhf_plugins.cli", "run", str(RECIPE), f"seed={seed}", f"output_dir={folder}"]
        command += ["--resume"] if (folder / "status.json").exists() else []
        subprocess.run([sys.executable, *command], check=True)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def row(name: str, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """One policy over all seeds: lists by seed, in the report's own names."""
    policies = [report["policies"][name] for report in reports]
    references = [report["policies"][report["reference"]] for report in reports]
    trained = any(stage["name"] == name for stage in reports[0]["stages"])
    clear = all(p["gold"]["low"] > r["gold"]["high"] for p, r in zip(policies, references, strict=True))
    keys = ("normalised", "kl", "length", "seconds", "peak_bytes")
    return {
        "policy": name,
        "trained": trained,
        "clear_of_reference": clear,
        "gold": [policy["gold"] for policy in policies],
        "out_of_distribution": [(policy["out_of_distribution"] or {}).get("mean") for policy in policies],
        "win_rate": [(policy["win_rate"] or {}).get("mean") for policy in policies],
        **{key: [policy[key] for policy in policies] for key in keys},
    }


def page(rows: list[dict[str, Any]], reports: list[dict[str, Any]]) -> str:
    """The Markdown page: what was run, where, and the table."""
    hardware, asked = reports[0]["hardware"], reports[0]["recipe"]["stages"][-1]
    ceilings = [report["ceiling"]["gold"] for report in reports]
    total = [sum(stage["cost"]["seconds"] or 0 for stage in report["stages"]) for report in reports]
    accuracy = [report["reward_model"]["accuracy"] for report in reports]
    lines = [
        "# The quickstart over seeds",
        "",
        f"`recipes/quickstart.yaml` under seeds 1 to {len(reports)}, by `python benchmarks/five_seeds.py` on "
        f"{hardware['cores']} cores ({hardware['cpu']}), {hardware['platform']}.",
        "The recipe's coefficients were chosen under other seeds (0, 100 and 102). "
        f"All stages of a run took {min(total):.0f} to {max(total):.0f} s, beside whatever else the machine did. "
        f"Best-of-{reports[0]['ceiling']['n']} by gold, the 100 of the score: {spread(ceilings)}. "
        f"Reward model accuracy on held-out pairs: {spread(accuracy)}.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + " --- |" * len(HEADER),
        *(line(row) for row in rows),
        "",
        *(verdict(row) for row in rows if row["trained"]),
        "",
        f"Every seed asks the same {asked['prompts']} held-out prompts, {asked['responses']} responses of each policy "
        "to each: a prompt's score is their mean, and win rates compare these means. Over other prompts like these the "
        f"95% interval of a policy's gold reward in one seed is {points(rows, ceilings):.0f} points of score to either "
        "side.",
        "",
        "Differences of a few points of score between DPO, IPO and PPO are not differences of the algorithms: each has "
        "one setting, found by hand. Seconds share the machine with other work.",
        "",
        *CHOICE,
    ]
    return "\n".join(lines) + "\n"


def points(rows: list[dict[str, Any]], ceilings: list[float]) -> float:
    """Half the median width of the trained policies' intervals of gold reward, as points of the score."""
    half = np.median([(gold["high"] - gold["low"]) / 2 for row in rows if row["trained"] for gold in row["gold"]])
    base = next(row for row in rows if row["policy"] == "base")
    return float(100 * half / (np.mean(ceilings) - np.mean([gold["mean"] for gold in base["gold"]])))


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    gold = " ".join(f"{g['mean']:.2f}" for g in row["gold"])
    peak = [None if b is None else b / 2**30 for b in row["peak_bytes"]]
    cells = (row["policy"], gold, f"{np.mean([g['mean'] for g in row['gold']]):.3f}", spread(row["normalised"], 0))
    rest = (row["out_of_distribution"], row["kl"], row["win_rate"], row["length"])
    return "| " + " | ".join([*cells, *map(spread, rest), spread(row["seconds"], 0), spread(peak)]) + " |"


def verdict(row: dict[str, Any]) -> str:
    """Whether the policy beat the reference in every seed, and its lowest score."""
    what = "is" if row["clear_of_reference"] else "is NOT"
    clear = f"the 95% interval of the gold reward {what} clear of the reference's in every seed"
    return f"- {row['policy']}: {clear}; the lowest score of a seed is {min(row['normalised']):.1f}."


def spread(values: list[float | None], digits: int = 2) -> str:
    """Mean and range over seeds, or `-`."""
    known = [v for v in values if v is not None]
    if not known:
        return "-"
    return f"{np.mean(known):.{digits}f} ({min(known):.{digits}f} to {max(known):.{digits}f})"


if __name__ == "__main__":
    main()
