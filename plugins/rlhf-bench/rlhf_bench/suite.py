"""A suite: tasks x algorithms x seeds as recipes that differ in nothing else.

    base: sandbox
    seeds: [1, 2, 3]
    budget: {flops: 2.0e+13}
    baseline: dpo
    tasks:
      clean: {data: {format: sandbox, prompts: 300}}
    algorithms:
      dpo: {stages: [{stage: preference, loss: dpo}]}
      ppo: {stages: [{stage: reward_model, share: 0.2}, {stage: online, share: 0.8}]}

The budget is that of all stages of an algorithm together, which `share` divides; equal parts where none is given.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from math import isclose
from pathlib import Path
from sys import float_info
from typing import Any

from rlhf_bench import judging
from rlhf_bench.overrides import overridden
from rlhf_plugins import RecipeError, RunError, Stage, check_recipe, component, nearest, read_yaml, recipe_digest

Recipe = dict[str, Any]
SHARED = ("base", "adapter", "quantization", "engine", "plugins")  # keys that a suite gives to every recipe
OPTIONS = (
    *SHARED,
    "about",
    "seeds",
    "budget",
    "baseline",
    "start",
    "judge",
    "evaluate",
    "tasks",
    "algorithms",
    "quick",
)
OF_TASK, OF_ALGORITHM = ("about", "data", "against"), ("about", "stages", "not_on", "knob")
BUDGETS = ("flops", "seconds")
BASE = "base"  # the baseline that is always there: the untrained policy


@dataclass(frozen=True)
class Cell:
    """One run: an algorithm on a task under a seed."""

    task: str
    algorithm: str
    seed: int
    recipe: Recipe = field(repr=False)
    digest: str
    trained: tuple[str, ...]  # the names of the algorithm's own stages

    def __str__(self) -> str:
        return f"{self.task}/{self.algorithm}/{self.seed}"


@dataclass(frozen=True)
class Suite:
    """What is run, and what it is compared with."""

    name: str
    about: str
    seeds: tuple[int, ...]
    budget: dict[str, float]
    baseline: str
    tasks: dict[str, str]  # what each is about
    algorithms: dict[str, str]
    knobs: dict[str, tuple[str, float]]  # an algorithm under a value of its knob -> the algorithm, and the value
    cells: tuple[Cell, ...] = field(repr=False)
    against: dict[str, str] = field(default_factory=dict)  # a task -> the one that it is read against
    overrides: tuple[str, ...] = ()  # values that its file does not have


def read(file: Path, quick: bool = False, overrides: Sequence[str] = ()) -> Suite:
    """A suite with its recipes, each of which is sound.

    Args:
        file: the file of YAML; paths in it are relative to the working directory, as in a recipe that is a mapping.
        quick: with the values of its block `quick` in the place of the others.
        overrides: `a.b=value`, over both; `tasks=[NAMES]` and `algorithms=[NAMES]` select.

    Raises:
        RunError: it holds every fault that was found.
        RecipeError: it is no YAML file of plain values, or writes a key twice; or an override leads nowhere.
    """
    words, every = overridden(file, read_yaml(file), quick, overrides)
    return _Reader(file, words, every, _named(file, quick, overrides), tuple(overrides)).suite()


def _named(file: Path, quick: bool, overrides: Sequence[str]) -> str:
    """The name of its folder; a suite with other values is another one, so that their tables do not mix."""
    mark = sha256("\0".join(overrides).encode()).hexdigest()[:6]
    return file.stem + f"-{mark}" * bool(overrides) + "-quick" * quick


class _Reader:
    """Reads one suite, and collects its faults."""

    def __init__(self, file: Path, words: Recipe, every: frozenset[str], name: str, overrides: tuple[str, ...]) -> None:
        self.file, self.words, self.name, self.overrides = file, words, name, overrides
        self.every = every  # its tasks, those that are not run among them
        self.faults: list[str] = []
        self.unfit: dict[str, list[str]] = {}  # a fault of recipes -> the algorithms and tasks that have it

    def suite(self) -> Suite:
        words = self.words
        self.unknown("", words, OPTIONS)
        for key, kind, what in (("evaluate", dict, "a mapping"), ("start", list, "a list")):
            if not isinstance(words.get(key) or kind(), kind):
                self.fault(key, f"should be {what} of {'options' if kind is dict else 'stages'}, got {words[key]!r}")
        self.said("about", words)
        tasks = self.mapping("tasks", OF_TASK, "data")
        written = self.mapping("algorithms", OF_ALGORITHM, "stages")
        for name, one in written.items():
            self.listed(f"algorithms.{name}.stages", one.get("stages") if isinstance(one, dict) else None)
        self.judge(words.get("judge") or [])
        seeds, budget = self.seeds(), self.budget()
        self.refuse()
        algorithms, knobs = self.with_knobs(written)
        baseline = words.get("baseline", BASE)
        if BASE in algorithms:
            self.fault(f"algorithms.{BASE}", "means the untrained policy: call it something else")
        if baseline not in (BASE, *algorithms):
            self.fault("baseline", f"no algorithm {baseline!r} {nearest(baseline, (BASE, *algorithms))}")
        against = {name: one["against"] for name, one in tasks.items() if "against" in one}
        for name, other in against.items():
            if other not in list(tasks) or other == name:
                self.fault(f"tasks.{name}.against", f"no other task {other!r} {nearest(other, tasks.keys() - {name})}")
        cells = list(self.cells(tasks, algorithms, seeds, budget))
        for line, (first, *others) in self.unfit.items():
            self.fault("", f"{first}{f' and {len(others)} more' if others else ''}: {line}")
        self.refuse()
        about = {name: one.get("about", "") for name, one in tasks.items()}
        of_algorithms = {name: one.get("about", "") for name, one in algorithms.items()}
        given = [text for text in self.overrides if not text.startswith("about=")]
        text = f"{words.get('about', '')} With {', '.join(given)}.".lstrip() if given else words.get("about", "")
        named = (self.name, text, seeds, budget, baseline, about, of_algorithms, knobs)
        return Suite(*named, tuple(cells), against, self.overrides)

    def fault(self, path: str, message: str) -> None:
        self.faults.append(f"{self.file}: {path}: {message}" if path else f"{self.file}: {message}")

    def refuse(self) -> None:
        if self.faults:
            raise RunError("\n".join(dict.fromkeys(self.faults)))

    def unknown(self, path: str, found: Mapping[str, Any], known: Iterable[str]) -> None:
        for name in found.keys() - set(known):
            self.fault(f"{path}.{name}".lstrip("."), f"unknown option {nearest(name, known)}")

    def mapping(self, key: str, known: Iterable[str], needed: str) -> dict[str, Recipe]:
        """The tasks or the algorithms by name."""
        found = self.words.get(key)
        if not isinstance(found, dict) or not found:
            self.fault(key, f"at least one is needed, `NAME: {{{needed}: ...}}`")
            return {}
        for name, one in found.items():
            if not isinstance(one, dict) or not one.get(needed):
                self.fault(f"{key}.{name}", f"needs `{needed}`")
            else:
                self.unknown(f"{key}.{name}", one, known)
                self.said(f"{key}.{name}.about", one)
        return {str(name): one for name, one in found.items()}

    def said(self, path: str, found: Mapping[str, Any]) -> None:
        """Notes an `about` that is no text."""
        if not isinstance(found.get("about", ""), str):
            self.fault(path, f"should be text, got {found['about']!r}")

    def listed(self, path: str, stages: Any) -> bool:
        fits = isinstance(stages, list) and all(isinstance(stage, dict) for stage in stages)
        if not fits:
            self.fault(path, "should be a list of stages, as in a recipe")
        return fits

    def judge(self, stages: Any) -> None:
        if self.listed("judge", stages):
            for fault in judging.share_faults(stages):
                self.fault("judge", fault)

    def seeds(self) -> tuple[int, ...]:
        seeds = self.words.get("seeds", [1, 2, 3])
        if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
            self.fault("seeds", f"should be a list of whole numbers, got {seeds!r}")
            return ()
        if len(set(seeds)) < len(seeds):
            self.fault("seeds", "each seed once: a run that is counted twice would narrow the intervals")
        return tuple(seeds)

    def budget(self) -> dict[str, float]:
        """What each algorithm may use, in one unit, so that all are at equal compute."""
        budget = self.words.get("budget")
        if not isinstance(budget, dict) or len(budget) != 1 or not budget.keys() <= set(BUDGETS):
            self.fault("budget", f"should be one of {' or '.join(f'{{{name}: NUMBER}}' for name in BUDGETS)}")
            return {}
        ((unit, amount),) = budget.items()
        if type(amount) not in (int, float) or not 0 < amount <= float_info.max:
            self.fault(f"budget.{unit}", f"should be a finite number above 0, got {amount!r}{_as_number(amount)}")
            return {}
        return {unit: float(amount)}

    def with_knobs(self, written: Mapping[str, Recipe]) -> tuple[dict[str, Recipe], dict[str, tuple[str, float]]]:
        """An algorithm with a knob becomes one algorithm for each of its values."""
        algorithms: dict[str, Recipe] = {}
        knobs: dict[str, tuple[str, float]] = {}
        for name, one in written.items():
            if not one.get("knob"):
                algorithms[name] = one
                continue
            for path, value in self.knob(name, one["knob"]):
                label = f"{name} {path.rpartition('.')[2]}={value}"
                algorithms[label] = self.turned(name, one, path, value)
                knobs[label] = (name, float(value))
        return algorithms, knobs

    def knob(self, name: str, knob: Any) -> list[tuple[str, float]]:
        """The option that a knob turns, with each of its values."""
        values = next(iter(knob.values())) if isinstance(knob, dict) and len(knob) == 1 else None
        numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
        if not isinstance(values, list) or not numbers or not values or len(set(values)) < len(values):
            how = "should be one option with different numbers, `{STAGE.OPTION: [0.1, 0.5]}`"
            self.fault(f"algorithms.{name}.knob", f"{how}, got {knob!r}")
            return []
        return [(str(next(iter(knob))), value) for value in values]

    def turned(self, name: str, one: Recipe, path: str, value: float) -> Recipe:
        """The algorithm with another value at `stage.option.option`."""
        turned = copy.deepcopy(one)
        stage, *keys = path.split(".")
        found = {str(each.get("name", each.get("stage"))): each for each in turned["stages"]}
        if stage not in found or not keys:
            self.fault(f"algorithms.{name}.knob.{path}", f"begins with no stage of it {nearest(stage, found)}")
            return turned
        place = found[stage]
        for key in keys[:-1]:
            inner = place.get(key) or {}
            if not isinstance(inner, str | dict):
                self.fault(f"algorithms.{name}.knob.{path}", f"{key} is no component or block of options: {inner!r}")
                return turned
            place[key] = {"use": inner} if isinstance(inner, str) else dict(inner)
            place = place[key]
        place[keys[-1]] = value
        return turned

    def cells(
        self, tasks: Mapping[str, Recipe], algorithms: Mapping[str, Recipe], seeds: Iterable[int], budget: Recipe
    ) -> Iterator[Cell]:
        for name, one in algorithms.items():
            left_out = one.get("not_on", [])
            named = isinstance(left_out, list) and all(isinstance(each, str) for each in left_out)
            if not named or not self.every - set(left_out):
                self.fault(f"algorithms.{name}.not_on", f"should be a list of some of the tasks, got {left_out!r}")
                continue
            for other in set(left_out) - self.every:
                self.fault(f"algorithms.{name}.not_on", f"no task {other!r} {nearest(other, self.every)}")
            if not (own := [task for task in tasks if task not in left_out]):
                self.fault(f"algorithms.{name}.not_on", f"is on none of {', '.join(tasks)}: select other algorithms")
            stages = self.stages(name, one["stages"], budget)
            for task in own:
                recipe = self.recipe(stages, tasks[task]["data"])
                if made := self.made(task, name, recipe, len(stages)):
                    whole = judging.with_wins(recipe, made) if judging.is_given(self.words) else recipe
                    for seed in seeds:
                        seeded = {**whole, "seed": seed}
                        trained = tuple(stage.name for stage in made)
                        yield Cell(task, name, seed, seeded, recipe_digest(seeded), trained)

    def stages(self, name: str, written: Any, budget: Mapping[str, float]) -> list[Recipe]:
        """The stages of an algorithm, each with its share of the budget."""
        for stage in written:
            if "budget" in stage:
                self.fault(f"algorithms.{name}.stages", "a stage has a budget of its own: use `share`, a part of all")
        shares = [stage.get("share") for stage in written]
        if all(share is None for share in shares):
            shares = [1 / len(written)] * len(written)
        if not all(type(share) in (int, float) and share >= 0 for share in shares) or not isclose(
            sum(shares), 1, abs_tol=1e-6
        ):
            self.fault(f"algorithms.{name}.stages", f"the shares should be 1 together, got {shares}")
            return []
        parts = [{unit: amount * share for unit, amount in budget.items()} for share in shares]
        plain = [{key: value for key, value in stage.items() if key != "share"} for stage in written]
        return [
            {**stage, "budget": part} if any(part.values()) else stage for stage, part in zip(plain, parts, strict=True)
        ]

    def recipe(self, stages: list[Recipe], data: Any) -> Recipe:
        shared = {key: self.words[key] for key in SHARED if key in self.words}
        rows, judge, evaluate = judging.judged(self.words, data)
        start = self.words.get("start") or []
        return {"base": "sandbox", **shared, "data": rows, "stages": [*start, *stages, *judge, evaluate]}

    def made(self, task: str, algorithm: str, recipe: Recipe, count: int) -> tuple[Stage, ...]:
        """The algorithm's stages; none where its recipe has a fault, which is noted."""
        try:
            resolved = check_recipe(recipe)["stages"]
        except RecipeError as error:
            for line in str(error).splitlines():
                message = f"{line} (or leave the task out: `not_on: [{task}]`)"
                self.unfit.setdefault(message, []).append(f"{algorithm} on {task}")
            return ()
        first = len(self.words.get("start") or [])
        own = resolved[first : first + count]
        made, judge = map(_stages, (own, resolved[first + count : -1]))
        for fault in (*judging.stage_faults(judge), *judging.evaluate_faults(judge, resolved[-1])):
            self.fault("judge", fault)
        before = {"start": resolved[:first], f"algorithms.{algorithm}.stages": own} if judge else {}
        for path, stages in before.items():
            for fault in judging.own_data_faults(stages):
                self.fault(path, fault)
        if not any("policy" in stage.makes for stage in made):
            self.fault(f"algorithms.{algorithm}.stages", "none of them makes a policy, which could be compared")
        for stage in own:
            if stage.get("budget", {"share": 0}) is None:
                self.fault(
                    f"algorithms.{algorithm}.stages", f"{stage['name']} has no share, and trains without a limit"
                )
        return made


def _stages(resolved: Iterable[Recipe]) -> tuple[Stage, ...]:
    return tuple(
        component("stage", stage["stage"], **{k: v for k, v in stage.items() if k != "stage"}) for stage in resolved
    )


def _as_number(written: Any) -> str:
    """How YAML wants the number that a text is; empty where it is none."""
    try:
        return f"; write {float(written):.1e}" if isinstance(written, str) else ""
    except ValueError:
        return ""
