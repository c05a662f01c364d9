"""Measures what all monitors together cost a training of the sandbox's policy, which is as small as they come.

    python plugins/rlhf-watch/benchmarks/cost.py [--repeats 5]

Trains recipes/clean_sandbox.yaml with another seed each time. A step lasts from the first monitor's call to the same of
the next rollout, and so holds a rollout, its updates and all that is logged. Prints for each run the median over
rollouts of the share of a step that monitors take, writing their curves included, the share of all steps together, and
the median time of each monitor. All times are the training thread's processor time, which other programs do not
lengthen. A rollout in which the report's page was drawn while a monitor logged is left out of both shares, and
counted: a run draws that page now and then, in whichever call logs first.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from rlhf_watch.alarms.watched import Watching
from sandbox_thresholds import RECIPE, machine

from rlhf_plugins import Alarm, Step, run_recipe


@dataclass
class Rollout:
    """When its first monitor was called, the seconds of each, and whether the report's page was drawn meanwhile."""

    began: float
    seconds: dict[str, float] = field(default_factory=dict)
    drawn: bool = False


class Timed:
    """Times every monitor of a run while it is entered."""

    def __init__(self, page: Path) -> None:
        self.page, self.rollouts, self._call = page, dict[int, Rollout](), Watching.__call__

    def __enter__(self) -> Timed:
        call = self._call

        def timed(watching: Watching, step: Step) -> Alarm | None:
            page, began = self._changed(), time.thread_time()
            alarm = call(watching, step)
            ended = time.thread_time()
            rollout = self.rollouts.setdefault(step.step, Rollout(began))
            rollout.seconds[watching._name] = ended - began
            rollout.drawn |= self._changed() != page
            return alarm

        Watching.__call__ = timed  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        Watching.__call__ = self._call  # type: ignore[method-assign]

    def _changed(self) -> int:
        return self.page.stat().st_mtime_ns if self.page.exists() else 0


def measured(seed: int) -> dict[int, Rollout]:
    """The rollouts of one run, by step."""
    recipe: dict[str, Any] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        with Timed(run / "report.html") as timed:
            run_recipe({**recipe, "seed": seed, "output_dir": str(run)})
    return timed.rollouts


def line(rollouts: dict[int, Rollout]) -> str:
    """A run in words."""
    steps = [(one, rollouts[at + 1].began - one.began) for at, one in rollouts.items() if at + 1 in rollouts]
    kept = [(sum(one.seconds.values()), lasted) for one, lasted in steps if not one.drawn]
    share = median(spent / lasted for spent, lasted in kept)
    every = sum(spent for spent, _ in kept) / sum(lasted for _, lasted in kept)
    step, left_out = median(lasted for _, lasted in kept), len(steps) - len(kept)
    names = sorted({name for one in rollouts.values() for name in one.seconds})
    each = (f"{name} {1e3 * median(one.seconds[name] for one in rollouts.values()):.2f}" for name in names)
    return (
        f"{share:.2%} of a step of {step:.3f} s, the median of {len(kept)}, {every:.2%} of all, {left_out} left out; "
        f"in ms: {', '.join(each)}"
    )


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    lines = [line(measured(seed)) for seed in range(parser.parse_args().repeats)]
    print(machine(), *lines, sep="\n")


if __name__ == "__main__":
    main()
