"""How a suite judges where nobody knows the truth: a judge's rows, where it starts, and the reward beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf_plugins import Stage

Recipe = dict[str, Any]
OWN_ROWS = "own_rows"  # key of a stage of `judge`: the share of the training prompts that it alone learns from
OF_STAGE = "stage"  # the format of rows that an earlier stage of the run made from its own
TRAINED = frozenset({"policy", "reward"})  # what a stage makes that learns from rows
# an option of `evaluate` -> the same option of a task
SAMPLING = {"prompts": "rows", "max_new_tokens": "max_new_tokens", "temperature": "temperature"}


def judged(words: Mapping[str, Any], data: Any) -> tuple[Any, list[Recipe], Recipe]:
    """The rows of the algorithms on a task, the stages of the judge with rows of its own, and the evaluation.

    Args:
        words: the words of the suite.
        data: the task's.
    """
    stages, evaluate = words.get("judge") or [], {"stage": "evaluate", **(words.get("evaluate") or {})}
    shares = [stage[OWN_ROWS] for stage in stages if OWN_ROWS in stage]
    rows = {"format": "apart", "rows": data, "share": shares[0]} if shares else data
    own = {"format": "apart", "rows": data, "share": shares[0], "part": "judge"} if shares else None
    made = [_with_rows(stage, own, rows) for stage in stages]
    if made and not evaluate.keys() & {"reward", "judge"}:
        evaluate["reward"] = {"use": "model", "stage": made[-1].get("name", made[-1].get("stage"))}
    return rows, made, evaluate


def _with_rows(stage: Recipe, own: Recipe | None, others: Any) -> Recipe:
    """A stage of the judge with its part of the rows, or those of its own file that no algorithm learns from."""
    plain = {key: value for key, value in stage.items() if key != OWN_ROWS}
    if OWN_ROWS in stage:
        return {**plain, "data": own}
    return {**plain, "data": {"format": "unseen", "rows": plain["data"], "by": others}} if "data" in plain else plain


def with_wins(recipe: Recipe, made: Sequence[Stage]) -> Recipe:
    """The recipe, which also counts how often an algorithm's own reward model prefers its policies to the base."""
    rewards = [stage.name for stage in made if "reward" in stage.makes]
    if not rewards:
        return recipe
    *stages, evaluate = recipe["stages"]
    own = {there: evaluate[here] for here, there in SAMPLING.items() if here in evaluate}
    task = {"use": "reward_wins", "reward": {"use": "model", "stage": rewards[-1]}, **own}
    return {**recipe, "stages": [*stages, {**evaluate, "tasks": [*evaluate.get("tasks", []), task]}]}


def is_given(words: Mapping[str, Any]) -> bool:
    """Whether the suite names a judge, which then is not the true reward."""
    return bool(words.get("judge")) or not {"reward", "judge"}.isdisjoint(words.get("evaluate") or {})


def share_faults(stages: Sequence[Recipe]) -> Iterator[str]:
    """What is wrong with the parts of the rows that the judge's stages ask for."""
    shares = [stage[OWN_ROWS] for stage in stages if OWN_ROWS in stage]
    for share in shares:
        if type(share) not in (int, float) or not 0 < share < 1:
            yield f"{OWN_ROWS} should be a part of the training prompts, between 0 and 1, got {share!r}"
    if len(set(map(str, shares))) > 1:
        yield f"{OWN_ROWS} should be the same in all its stages, which share these rows, got {shares}"
    if any(OWN_ROWS in stage and "data" in stage for stage in stages):
        yield f"a stage has both {OWN_ROWS} and data: give one of the two"


def own_data_faults(stages: Sequence[Recipe]) -> Iterator[str]:
    """Why a judge may have learned from the prompts of policies: their stages have rows that it knows nothing of.

    Args:
        stages: resolved ones, before those of the judge.
    """
    for stage in stages:
        for rows in _own_data(stage):
            if not isinstance(rows, dict) or rows.get("format") != OF_STAGE:
                yield (
                    f"{stage['name']} has `data` of its own, whose prompts a judge that is trained may have "
                    "learned from: put its rows into the `data` of the tasks"
                )


def _own_data(stage: Any) -> Iterator[Any]:
    """The rows of a stage and of the trainings inside it."""
    if isinstance(stage, dict):
        if stage.get("data"):
            yield stage["data"]
        for option in stage.values():
            yield from _own_data(option)
    if isinstance(stage, list):
        for one in stage:
            yield from _own_data(one)


def evaluate_faults(stages: Sequence[Stage], evaluate: Recipe) -> Iterator[str]:
    """Why the judge would not judge, or on prompts that it may have learned from.

    Args:
        evaluate: resolved.
    """
    if not stages:
        return
    name = stages[-1].name
    given = next((key for key in ("reward", "judge") if evaluate.get(key)), None)
    if given and not _opens(evaluate[given], name):
        yield (
            f"evaluate.{given} is not {name}, which the suite trains to judge: leave out one of the two, or write "
            f"`reward: {{use: model, stage: {name}}}`"
        )
    if evaluate.get("data"):
        yield f"evaluate.data: {name} may have learned from its prompts: hold them out in the `data` of the tasks"


def _opens(spec: Any, stage: str) -> bool:
    """Whether a component, or one inside it, is the reward model of a stage, which is the last one before it."""
    if isinstance(spec, list):
        return any(_opens(one, stage) for one in spec)
    if not isinstance(spec, dict):
        return False
    own = spec.get("use") == "model" and spec.get("stage") in (None, stage)
    return own or any(_opens(option, stage) for option in spec.values())


def stage_faults(stages: Sequence[Stage]) -> Iterator[str]:
    """Why the judge would be one that algorithms are trained on, or trained like: its rows, and where it starts."""
    fresh = False  # whether a stage of the judge itself made the policy that the next one starts from
    for stage in stages:
        if stage.makes.isdisjoint(TRAINED):
            continue
        if stage.data is None:
            yield (
                f"{stage.name} learns from the rows of the algorithms: give it `{OWN_ROWS}: 0.3`, a part of the "
                "prompts that no algorithm learns from, or `data` of its own"
            )
        if stage.from_ == "previous" and not fresh:
            yield f"{stage.name} starts from the policy that it judges: write `from: base`"
        fresh = fresh or "policy" in stage.makes
    if stages and "reward" not in stages[-1].makes:
        yield f"{stages[-1].name}, its last stage, makes no reward model"
