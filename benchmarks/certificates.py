"""Certifies reward models of many and of few training rows, over seeds; writes docs/benchmarks/certificates.md.

    python benchmarks/certificates.py [--seeds 5] [--runs runs/certificates]

Clopper and Pearson's bound is beside PAC-Bayes-kl's, of a model that was trained on many rows and of one that
was trained on few, whose held-out pairs have more to teach it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from sandbox_runs import Ran, Recipe, ran

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "benchmarks" / "certificates.md"
TRAINER = {"learning_rate": 1e-3, "per_device_train_batch_size": 32, "num_train_epochs": 1, "warmup_steps": 10}
CASES = {"1,200 prompts to train on": (1200, 270), "60 prompts to train on": (60, 270)}
SHOWN = {
    "accuracy": "accuracy",
    "certificate_lower_bound": "Clopper-Pearson",
    "pac_bayes_lower_bound": "PAC-Bayes-kl, randomised",
    "pac_bayes_accuracy": "its accuracy here",
    "pac_bayes_lower_bound_of_the_mean": "PAC-Bayes-kl, the mean",
    "pac_bayes_kl": "KL, nats",
}


def main() -> None:
    """Parses the command line, runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "certificates")
    options = parser.parse_args()
    seeds = range(1, options.seeds + 1)
    found = {
        title: [ran(recipe(*sizes, seed), options.runs / f"{sizes[0]}-{seed}") for seed in seeds]
        for title, sizes in CASES.items()
    }
    OUT.write_text(page(found, options.seeds))
    print(OUT.read_text())


def recipe(train: int, test: int, seed: int) -> Recipe:
    """A reward model of the sandbox, and its certificates."""
    data = {"format": "sandbox", "writer": "sloppy", "prompts": train, "test_prompts": test, "responses": 4, "pairs": 1}
    measured = {"stage": "evaluate_reward", "metrics": ["accuracy", "certificate", "pac_bayes"]}
    stages = [{"stage": "reward_model", "trainer": TRAINER}, measured]
    return {"base": "sandbox", "adapter": "none", "seed": seed, "data": data, "stages": stages}


def page(found: Mapping[str, Sequence[Ran]], seeds: int) -> str:
    """The page: a column per case."""
    machine = next(iter(found.values()))[0].report["hardware"]
    lines = [
        "# Certificates of accuracy",
        "",
        f"Reward models of the sandbox, seeds: {seeds}, by `python benchmarks/certificates.py --seeds {seeds}` on "
        f"{machine['cores']} cores ({machine['cpu']}). Means over seeds; every bound fails with probability 5%.",
        "",
        f"| | {' | '.join(found)} |",
        f"|---|{'---|' * len(found)}",
    ]
    for name, title in SHOWN.items():
        lines.append(f"| {title} | {' | '.join(_mean(runs, name) for runs in found.values())} |")
    return "\n".join(lines) + "\n"


def _mean(runs: Sequence[Ran], name: str) -> str:
    rows: list[Any] = [run.report["reward_models"]["reward_model"] for run in runs]
    return f"{fmean(row[name] if name in row else row['metrics'][name] for row in rows):.3f}"


if __name__ == "__main__":
    main()
