"""What adversarial training costs on clean pairs and gains under attack, in the sandbox.

    python plugins/rlhf-robust/bench/hardened.py [SEEDS] [PROMPTS]

The stage `harden` attacks a reward model with changed versions of rejected responses, trains again, and attacks the new
model in its turn. Printed are accuracies on clean held-out pairs, under an attack on the model itself, and under the
versions that fooled the first model, with what each round lost and gained, in points.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any

from rlhf_plugins import Base, Data, component, session

TRAINER = {"learning_rate": 1e-3, "per_device_train_batch_size": 32, "num_train_epochs": 1, "warmup_steps": 20}
ROWS = {"writer": "sloppy", "responses": 4, "pairs": 3}
HARDEN = {"use": "harden", "model": {"stage": "reward_model", "trainer": TRAINER}, "rounds": 2}
ATTACKS = ("clean", "attacked", "attacked as the first")


def of_seed(seed: int, prompts: int) -> Sequence[Mapping[str, Any]]:
    """A row for each round, as the stage reports it."""
    data: Data = component("data_format", "sandbox", prompts=prompts, **ROWS).load(Base("sandbox"), seed)
    with TemporaryDirectory() as folder:
        run = session("sandbox", data, Path(folder) / "run", seed=seed, checkpoint=None)
        rows: Sequence[Mapping[str, Any]] = run.train(HARDEN, name="harden").metrics["models"]
    print(f"seed {seed}: {rows}", file=sys.stderr, flush=True)
    return rows


def main(seeds: int = 5, prompts: int = 600) -> None:
    """Prints means over seeds with standard errors."""
    began = time.perf_counter()
    found = [of_seed(seed, prompts) for seed in range(seeds)]
    names = ["round", "rows added", *ATTACKS, "points clean", "points attacked"]
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for number in range(len(found[0])):
        now, first = [rows[number] for rows in found], [rows[0] for rows in found]
        cells = [shown([row[name] for row in now]) for name in ATTACKS]
        gains = [
            shown([100 * (row[name] - then[name]) for row, then in zip(now, first, strict=True)])
            for name in ATTACKS[:2]
        ]
        print(f"| {number} | {fmean(row['rows added'] for row in now):.0f} | {' | '.join([*cells, *gains])} |")
    print(f"{seeds} seeds, {time.perf_counter() - began:.0f} s")


def shown(values: Sequence[float]) -> str:
    """The mean and its standard error."""
    error = f" +- {stdev(values) / len(values) ** 0.5:.3g}" if len(values) > 1 else ""
    return f"{fmean(values):.3g}{error}"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
