"""Turns a tenth of the sandbox's labels round and asks `label_check` for them: docs/benchmarks/label_errors.md.

    python benchmarks/label_errors.py [--prompts 300] [--flips 0.1] [--steps 60] [--runs runs/label_errors]

A label counts as wrong in two ways: it was turned round here, or it prefers the response of the lower gold reward, as
the sandbox's annotators do of themselves now and then.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_plugins import Data, Group, component, session
from rlhf_plugins.report.machine import hardware

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "benchmarks" / "label_errors.md"


def main() -> None:
    """Parses the command line, runs what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--flips", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "label_errors")
    options = parser.parse_args()
    words = {"use": "sandbox", "prompts": options.prompts, "test_prompts": 64}
    run = session("sandbox", words, options.runs / "rows")
    data, turned = flipped(run.data, options.flips)
    run = session("sandbox", data, options.runs / "checked")
    trainer = {"max_steps": options.steps, "learning_rate": 1e-3, "per_device_train_batch_size": 32}
    stage = component("stage", "label_check", trainer=trainer)
    result = run.train(stage, name="label_check")
    (file,) = options.runs.glob("checked/**/suspects.jsonl")
    suspects = [json.loads(line) for line in file.read_text().splitlines()]
    OUT.write_text(page(data, turned, suspects, result.metrics, vars(options)))
    print(OUT.read_text())


def flipped(data: Data, share: float) -> tuple[Data, set[int]]:
    """The data with a share of the training pairs turned round, and the rows of these."""
    rng = np.random.default_rng(0)
    turned = set(rng.permutation(len(data.train))[: round(share * len(data.train))].tolist())
    train = tuple(
        replace(g, responses=g.responses[::-1], gold=g.gold and g.gold[::-1], origin=replace(g.origin, row=row))
        if row in turned
        else replace(g, origin=replace(g.origin, row=row))
        for row, g in enumerate(data.train)
        if g.origin is not None
    )
    return replace(data, train=train), turned


def page(data: Data, turned: set[int], suspects: list[dict[str, Any]], metrics: Any, options: dict[str, Any]) -> str:
    """Precision and recall of the suspects, and of as many of the first as labels were turned round."""
    rows = [int(str(one["origin"]).rpartition(":")[2]) for one in suspects]
    lower = {row for row, group in enumerate(data.train) if _by_gold(group)}
    lists = {"all": rows, "as many as were turned round, the least likely": rows[: len(turned)]}
    machine, count = hardware(), len(data.train)
    lines = [
        "# Labels that a cross-fitted reward model contradicts",
        "",
        f"{options['flips']:.0%} of the {count} labels of {options['prompts']} sandbox prompts were turned round "
        f"({len(turned)}), and `label_check` with 5 folds of {options['steps']} steps listed {len(rows)} as suspect, "
        f"by `python benchmarks/label_errors.py` on {machine.cores} cores ({machine.cpu}). The models were right about "
        f"{metrics['out_of_fold_accuracy']:.0%} of the labels that they had not seen, the wrong ones among them.",
        "",
        "| of the suspects | number | turned round | lower gold reward preferred | turned-round ones found |",
        "| --- | --- | --- | --- | --- |",
        *(_row(name, found, turned, lower) for name, found in lists.items()),
        "",
        f"By chance {len(turned) / count:.0%} of a list would be turned round, and {len(lower) / count:.0%} would "
        "prefer the response of the lower gold reward.",
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, found: list[int], turned: set[int], lower: set[int]) -> str:
    cells = (name, len(found), _share(found, turned), _share(found, lower), f"{_found(found, turned):.0%}")
    return f"| {' | '.join(map(str, cells))} |"


def _found(found: list[int], turned: set[int]) -> float:
    return len(set(found) & turned) / len(turned)


def _by_gold(group: Group) -> bool:
    (one,) = group.comparisons
    return group.gold is not None and group.gold[one.better] < group.gold[one.worse]


def _share(found: list[int], wrong: set[int]) -> str:
    return f"{len(set(found) & wrong) / max(1, len(found)):.0%}"


if __name__ == "__main__":
    main()
