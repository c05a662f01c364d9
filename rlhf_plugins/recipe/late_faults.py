"""Faults of a recipe that would stop it after stages have trained: what is missing, and what is unknown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rlhf_plugins.contract.component import Component
from rlhf_plugins.contract.run_kinds import DataFormat, Stage
from rlhf_plugins.errors import nearest
from rlhf_plugins.recipe.column_needs import Name
from rlhf_plugins.recipe.options import all_parts
from rlhf_plugins.recipe.source import Keys

TAKEN = ("base", "previous", "start")  # words of `from` and `reference`
TRUTH = "data whose true reward is known, such as format sandbox"

JUDGES = ("reward", "judge")  # kinds of components
BEST = "metric_for_best_model"

Fault = tuple[Keys, str]


def missing(made: Mapping[Keys, Component]) -> Iterator[Fault]:
    """Files and folders that are not on this machine, or do not fit."""
    for keys, component in made.items():
        for inside, part in all_parts(component):
            yield from (((*keys, *inside, option), message) for option, message in part.missing().items())


def unjudged(stages: Sequence[tuple[Keys, Stage]], data: DataFormat | None, name: Name) -> Iterator[Fault]:
    """Parts that read a true reward that is unknown, and stages that judge with nothing to judge by.

    Args:
        stages: the stages of a recipe, in order, each with its place.
        data: the recipe's.
        name: what a recipe calls a component.
    """
    judge = False
    for keys, stage in stages:
        source = stage.data or data
        known = source is None or source.known_gold() is not False
        for inside, part in all_parts(stage):
            if not known and part.reads_gold:
                yield (*keys, *inside), f"{part.kind} {name(part)} needs {TRUTH}"
        own = any(part.kind in JUDGES and inside[:1] != ("tasks",) for inside, part in all_parts(stage))
        if stage.judges and not known and not judge and not own and source and not source.answered:
            needs = "needs `reward:` or `judge:`, a stage before it that makes one, or data with answers"
            yield keys, f"stage {name(stage)} {needs}"
        judge = judge or "reward" in stage.makes


def unanswered(stages: Sequence[tuple[Keys, Stage]], data: DataFormat | None, name: Name) -> Iterator[Fault]:
    """Stages that train on responses, with rows that have none; arguments as of `unjudged`."""
    for keys, stage in stages:
        source = stage.data or data
        if stage.reads_answers and source is not None and not source.answered:
            yield keys, f"stage {name(stage)} trains on responses, and data of format {name(source)} has prompts alone"


def unmeasured(stages: Sequence[tuple[Keys, Stage]], data: DataFormat | None) -> Iterator[Fault]:
    """Stages that choose their best weights by a number that they do not measure; arguments as of `unjudged`."""
    for keys, stage in stages:
        source = stage.data or data
        gold = source is None or source.known_gold() is not False
        for inside, part in all_parts(stage):
            if isinstance(part, Stage) and (message := _unmeasured(part, gold)):
                yield (*keys, *inside, "trainer", BEST), message


def _unmeasured(stage: Stage, gold: bool) -> str:
    """What is wrong with the number by which a stage chooses; empty where nothing is."""
    given, numbers = stage.trainer or {}, stage.held_out_numbers(gold)
    if numbers is None:
        return ""
    if given.get("eval_strategy", "no") == "no":
        return "changes nothing without `eval_strategy`, which evaluates" if BEST in given else ""
    chooses = given.get("load_best_model_at_end") or stage.early_stopping_patience is not None
    name = (given.get(BEST) or ("loss" if chooses else "")).removeprefix("eval_")
    return f"no held-out number {name!r} {nearest(name, numbers)}" if name and name not in numbers else ""


def without_optimizer(stages: Sequence[tuple[Keys, Stage]]) -> Iterator[Fault]:
    """Stages that go on with the optimizer of a stage which keeps none."""
    makers: dict[str, Stage] = {}
    for keys, stage in stages:
        start = next(reversed(makers), "") if stage.from_ == "previous" else stage.from_
        maker = makers.get(start)
        if stage.optimizer == "start" and maker is not None and maker.keep_optimizer is False:
            yield (*keys, "optimizer"), f"stage {start!r} keeps none: write `keep_optimizer: true` there"
        if "policy" in stage.makes:
            makers[stage.name] = stage


def taken(stages: Sequence[tuple[Keys, Stage]]) -> Iterator[Fault]:
    """Stages whose names mean something else in `from` and `reference`."""
    for keys, stage in stages:
        if stage.name in TAKEN:
            yield keys, f"the name {stage.name!r} is a word of `from` and `reference`: give it another `name:`"
