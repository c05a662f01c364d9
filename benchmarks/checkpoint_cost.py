"""Runs a recipe and says what share of its time its checkpoints took.

    python benchmarks/checkpoint_cost.py recipes/quickstart.yaml [KEY=VALUE ...]

Exit code 1 where it is 3% or more.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlhf_plugins import run_recipe
from rlhf_plugins.run.stage.checkpointing import Keeper

MOST = 0.03  # of the run's time


def main(recipe: str, *overrides: str) -> int:
    """Prints the share. Returns the exit code."""
    spent: list[float] = []
    write = Keeper.write

    def timed(*given: Any, **named: Any) -> None:
        start = time.perf_counter()
        write(*given, **named)
        spent.append(time.perf_counter() - start)

    Keeper.write = timed  # type: ignore[method-assign]
    with TemporaryDirectory(prefix="checkpoint-cost-") as folder:
        start = time.perf_counter()
        run_recipe(recipe, [f"output_dir={Path(folder) / 'run'}", *overrides])
        whole = time.perf_counter() - start
    share = sum(spent) / whole
    print(f"{len(spent)} checkpoints took {sum(spent):.2f} s of {whole:.0f} s, {share:.2%}")
    return int(share >= MOST)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
