"""Measures what the guards of components cost of a training step, and writes docs/benchmarks/guards_cost.md and .json.

    python benchmarks/guards_cost.py [--repeats 3]

It trains stages in the sandbox with every guard under a clock: a guarded call takes what its component takes, and the
rest is the guard's. That is set against the time from one logged step to the next. The first steps do not count, stages
take turns, and the table has medians over the turns.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from statistics import median
from time import perf_counter
from types import ModuleType
from typing import Any

from rlhf_plugins import hookimpl, registry, run_recipe
from rlhf_plugins.contract import guards
from rlhf_plugins.registry.discovery import Plugin

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"
AIM = 0.005  # of a step
FIRST, LAST = 10, 40  # steps: the clock runs between them
PARTS = "head: {use: ensemble, members: 5}, loss: {use: sum, losses: [bradley_terry, centering], weights: [1, 0.01]}"
STAGES = {
    "reward": "stage: reward_model",
    "reward (ensemble of heads, sum of losses)": f"stage: reward_model, {PARTS}",
    "reward (frozen trunk)": "stage: reward_model, train_layers: 0",
    "preference": "stage: preference",
    "online (PPO)": "stage: online, reward: gold",
    "online (GRPO)": "stage: online, reward: gold, advantage: grpo, kl: {use: in_loss}",
}
RECIPE = """\
base: sandbox
adapter: ADAPTER
data: {format: sandbox, prompts: 512, test_prompts: 64}
stages:
  - {STAGE, trainer: {max_steps: LAST}}
"""


@dataclass
class Clock:
    """Seconds that guards took beside the components that they called, and how often, by the component's class."""

    spent: dict[type, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[type, int] = field(default_factory=lambda: defaultdict(int))
    answers: list[float] = field(default_factory=list)  # what the components of the guards at work took
    began: float = 0.0
    seconds: float = 0.0  # from the first step to the last

    def guard(self, guard: Callable[..., Any]) -> Callable[..., Any]:
        """The guard under the clock."""

        @wraps(guard)
        def timed(component: Any, *given: Any, **options: Any) -> Any:
            self.answers.append(0.0)
            began = perf_counter()
            said = guard(component, *given, **options)
            whole, kind = perf_counter() - began, type(guards.maker(component))
            self.spent[kind] += whole - self.answers.pop()
            self.calls[kind] += 1
            return said

        return timed

    def bare(self, answer: Callable[..., Any], component: Any, *inputs: Any) -> Any:
        """The component's own answer under the clock."""
        began = perf_counter()
        said = answer(component, *inputs)
        self.answers[-1] += perf_counter() - began
        return said

    def step(self, step: int) -> None:
        """A step was logged."""
        if step == FIRST:
            self.spent.clear()
            self.calls.clear()
            self.began, self.seconds = perf_counter(), 0.0
        if step == LAST and not self.seconds:  # which is logged once more at the end
            self.seconds = perf_counter() - self.began

    def found(self) -> dict[str, Any]:
        """Of a training that ended: seconds a step, and of each kind its calls a step and its seconds a step."""
        steps, kinds = LAST - FIRST, dict[str, dict[str, float]]()
        for cls, spent in self.spent.items():
            kind = kinds.setdefault(registry().find(cls).kind, {"calls": 0.0, "seconds": 0.0})
            kind["calls"] += self.calls[cls] / steps
            kind["seconds"] += spent / steps
        return {"step": self.seconds / steps, "kinds": kinds}


def main() -> None:
    """Trains and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    turns = parser.parse_args().repeats
    clock = watched()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in STAGES}
    for turn in range(turns):
        for name, stage in STAGES.items():
            found[name].append(trained(stage, clock))
            print(f"{turn + 1}/{turns} {name}: {line(found[name][-1])}", flush=True)
    rows = {name: row(runs) for name, runs in found.items()}
    (OUT / "guards_cost.json").write_text(
        json.dumps({"machine": machine(), "rows": rows, "runs": found}, indent=1) + "\n"
    )
    (OUT / "guards_cost.md").write_text(page(rows, turns))


def watched() -> Clock:
    """A clock on every guard, before any trainer takes one, and on every step that is logged."""
    clock, plugin = Clock(), ModuleType("clock")
    for name in ("answered", "built_by"):
        setattr(guards, name, clock.guard(getattr(guards, name)))
    guards._attempt = partial(clock.bare, guards._attempt)

    @hookimpl
    def step_logged(step: int) -> None:
        clock.step(step)

    vars(plugin)["step_logged"] = step_logged
    registry().register(plugin, Plugin("clock", "benchmark", "1"))
    return clock


def trained(stage: str, clock: Clock) -> dict[str, Any]:
    """One stage, trained."""
    adapter = "none" if "train_layers" in stage else "{r: 16}"
    words = RECIPE.replace("STAGE", stage).replace("ADAPTER", adapter).replace("LAST", str(LAST))
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder, "recipe.yaml")
        recipe.write_text(words)
        run_recipe(recipe, [f"output_dir={folder}/run"], say=lambda _: None)
    return clock.found()


def line(run: dict[str, Any]) -> str:
    """One training in words."""
    spent = sum(kind["seconds"] for kind in run["kinds"].values())
    return f"{1000 * run['step']:.1f} ms a step, of which guards {1e6 * spent:.0f} us"


def row(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians over the turns."""
    shares = [sum(kind["seconds"] for kind in run["kinds"].values()) / run["step"] for run in runs]
    kinds = {
        kind: {
            "calls": median(run["kinds"][kind]["calls"] for run in runs),
            "seconds": median(run["kinds"][kind]["seconds"] for run in runs),
            "share": median(run["kinds"][kind]["seconds"] / run["step"] for run in runs),
        }
        for kind in sorted(runs[0]["kinds"])
    }
    return {"step": median(run["step"] for run in runs), "share": median(shares), "most": max(shares), "kinds": kinds}


def machine() -> dict[str, Any]:
    """Where the numbers were taken."""
    from rlhf_plugins.report.machine import hardware

    return hardware().model_dump()


def page(rows: dict[str, dict[str, Any]], turns: int) -> str:
    """What was measured, where, and the table."""
    where = machine()
    lines = [
        "# What the guards of components cost",
        "",
        f"By `python benchmarks/guards_cost.py` on {where['cores']} cores ({where['cpu']}): stages in the sandbox with "
        f"TRL's batches, which took turns {turns} times. A guard's time is that of a guarded call less that of the "
        f"component in it, within the training; a step is the mean of {LAST - FIRST}, sampling, optimizer and logging "
        "included. Medians over the turns. The sandbox's policy is tiny; a larger one's steps take longer. "
        "Nothing was measured on a GPU, where a guard also waits for the numbers that it looks at.",
        "",
        "| stage | a step, ms | guarded | calls a step | guards, us a step | share of the step |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in rows.items():
        every = found["kinds"].values()
        calls, spent = (sum(kind[what] for kind in every) for what in ("calls", "seconds"))
        step = f"{1000 * found['step']:.1f}"
        lines.append(f"| {name} | {step} | all | {calls:.1f} | {1e6 * spent:.0f} | {found['share']:.2%} |")
        for kind, one in found["kinds"].items():
            lines.append(f"| | | `{kind}` | {one['calls']:.1f} | {1e6 * one['seconds']:.0f} | {one['share']:.2%} |")
    over = [name for name, found in rows.items() if found["share"] > AIM]
    lines += ["", f"The aim is at most {AIM:.1%} of a step. It is missed by: {', '.join(over) or 'none'}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
