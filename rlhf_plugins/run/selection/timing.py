"""Trains for a moment by each algorithm, to say how long its recipe takes on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.contract.run import Step
from rlhf_plugins.engine.cost import counting
from rlhf_plugins.engine.progress import line
from rlhf_plugins.errors import RlhfError
from rlhf_plugins.recipe.course import of_stages
from rlhf_plugins.report.words import duration

if TYPE_CHECKING:
    from rlhf_plugins.run.stage.stage_run import StageRun

Recipe = dict[str, Any]
PROMPTS = 64  # prompts of a trial, with their rows
FEWEST = 3  # steps of a trial


class Tick(NamedTuple):
    """A training after one of its steps."""

    step: int
    seconds: float
    flops: float


@dataclass(frozen=True)
class Rate:
    """What a trial took.

    Args:
        step: seconds of one.
        once: seconds of what is computed once for all rows of the trial, as log-probabilities of a reference are.
    """

    step: float
    once: float

    def of_all(self, steps: int, times: float) -> float:
        """Seconds of so many steps, on so many times the rows of the trial."""
        return self.step * steps + self.once * times


@dataclass(frozen=True)
class Timed:
    """Seconds of all trainings of an algorithm; None, and the reason, where it is unknown."""

    seconds: float | None
    why: str = ""


def rate(ticks: Sequence[Tick]) -> Rate | None:
    """The rate from the first step, a warm-up, to the last; None for fewer than `FEWEST` steps.

    FLOPs of the first step beyond those of the others are of what is computed once, at the same seconds a FLOP.
    """
    if len(ticks) < FEWEST:
        return None
    first, last = ticks[0], ticks[-1]
    steps, flops = last.step - first.step, last.flops - first.flops
    seconds = last.seconds - first.seconds
    once = max(0.0, first.flops - first.step * flops / steps) * seconds / flops if flops else 0.0
    return Rate(seconds / steps, once)


def timed(recipes: Mapping[str, Recipe], rows: Data, seconds: float) -> dict[str, Timed]:
    """The time of each algorithm. A training that another one shares is timed once; a line says what is timed.

    Args:
        recipes: on one base.
        rows: theirs, loaded.
        seconds: the seconds of each training, after its first step; it makes three steps also where these take longer.
    """
    found: dict[str, Timed] = {}
    known: dict[str, Rate | None] = {}
    with TemporaryDirectory() as folder:
        for name, recipe in recipes.items():
            try:
                found[name] = _of_recipe(recipe, rows, Path(folder) / name, known, seconds)
            except (RlhfError, OSError, ValueError) as error:
                found[name] = Timed(None, f"seconds of {name}: {error}")
    return found


def _of_recipe(recipe: Recipe, rows: Data, folder: Path, known: dict[str, Rate | None], seconds: float) -> Timed:
    """The time of one algorithm; `known` has the rates of trainings that were timed before, by their specs."""
    from rlhf_plugins.recipe.check import load_recipe
    from rlhf_plugins.run.stage.stage_run import Services, StageRun

    assembled, few, total = load_recipe(recipe), _few(rows), 0.0
    trains = [bool(stage.makes & {"policy", "reward"}) for stage in assembled.stages]
    courses = of_stages(compress(assembled.stages, trains), assembled.base.lengths.max_length, rows)
    words = [
        {k: v for k, v in one.items() if k not in ("from", "budget")} for one in compress(recipe["stages"], trains)
    ]
    keys = [json.dumps(one) for one in words]
    if any(key not in known for key in keys):
        run = StageRun(assembled.base, few, 0, folder, services=Services(assembled.registry, folder, checkpoint=None))
        known |= {key: _trial(run, one, seconds) for key, one in zip(keys, words, strict=True)}
    for key, (name, course) in zip(keys, courses.items(), strict=True):
        own = known[key]
        if own is None:
            return Timed(None, f"seconds of {name}: its trial made fewer than {FEWEST} steps")
        if course is None or course.steps is None:
            return Timed(None, f"seconds of {name}: nothing says how long it is")
        total += own.of_all(course.steps, len(rows.train) / len(few.train))
    return Timed(total)


def _trial(run: StageRun, words: Mapping[str, Any], seconds: float) -> Rate | None:
    """Trains by the words of a stage, as a part of the run, until its time is over."""
    line(f"timing {words['name']} for {duration(seconds)}")
    ticks: list[Tick] = []
    with counting() as counter:

        def is_over(step: Step) -> bool:
            if not ticks or step.step > ticks[-1].step:
                ticks.append(Tick(step.step, counter.seconds, counter.flops))
            return len(ticks) >= FEWEST and ticks[-1].seconds - ticks[0].seconds >= seconds

        stage = {"use": words["stage"], **{key: value for key, value in words.items() if key != "stage"}}
        stage["trainer"] = {**stage.get("trainer", {}), "logging_steps": 1}
        run.train(stage, name=words["name"], until=is_over)
    return rate(ticks)


def _few(rows: Data) -> Data:
    """Rows and prompts of a trial, evenly spaced."""
    prompts = {split: _spaced(of) if split == "train" else of for split, of in rows.prompts.items()}
    return replace(rows, train=_spaced(rows.train), prompts=prompts)


def _spaced(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    return groups[:: -(-len(groups) // PROMPTS) or 1]
