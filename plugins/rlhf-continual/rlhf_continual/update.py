"""The recipe that trains an old policy on new data, and what it kept of the old: arithmetic and words, no command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_plugins import Evaluation, RunError, RunRecord, mean_interval, open_run

Words = dict[str, Any]
OLD, NEW, UPDATED = "on_old", "on_new", "updated"
STATE = "optimizer.safetensors"  # in the folder of a stage that keeps its optimizer
FOLDERS = {"preference", "sft", "online"}  # stages whose policy an update trains further
# options of a stage `evaluate` that say how it samples
SAMPLING = ("max_new_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
SAME = (  # keys of the old recipe that the new one has too
    *("quantization", "trust_remote_code", "chat_template", "system", "chat_template_kwargs", "plugins", "seed"),
    *("max_length", "max_prompt_length", "truncation", "engine", "monitors"),
)


@dataclass(frozen=True)
class Change:
    """How the scores of a policy changed on some prompts, with the 95% interval of the mean."""

    data: str
    prompts: int
    before: float
    mean: float
    low: float
    high: float
    judge: str

    def kept(self, tolerance: float) -> str:
        """What this shows of a promise that nothing is lost but `tolerance`."""
        if self.low >= -tolerance:
            return f"kept: a loss above {tolerance:g} is excluded"
        return f"lost: a loss above {tolerance:g} is certain" if self.high < -tolerance else "not shown"


def recipe(run: str, data: Mapping[str, Any], out: Path, *, keep: Sequence[Words], prompts: int) -> Words:
    """The recipe of an update.

    Args:
        run: `RUN` or `RUN#STAGE`, the policy that is trained further.
        data: the new rows, in a recipe's words.
        out: the folder of the new run.
        keep: regularizers that hold what the policy knows; one with a field `data` takes the old rows.
        prompts: held-out prompts that old and new policy answer, of either data.

    Raises:
        RunError: the run has no such stage, or none that trained a policy; or another kind of stage made its last one.
    """
    folder, _, name = run.partition("#")
    record = open_run(Path(folder))
    old = record.recipe
    stage = _stage(record, name)
    before = stage.pop("data", None) or old["data"]  # of the stage itself, or of the run
    held = [{**each, "data": before} if each.get("use") == "ewc" else each for each in keep]
    places = {"from": "previous", **({"reference": "start"} if "reference" in stage else {})}
    regularizers = [*stage.get("regularizers", []), *held]
    own = _with_saved_rewards(stage, lambda named: f"{folder}#{named or _reward_before(record, stage)}")
    kept = {"optimizer": "start" if _kept_optimizer(record, stage) else "new"} if "optimizer" in stage else {}
    trained = {**own, "name": UPDATED, **places, **kept, "regularizers": regularizers}
    measured = {"stage": "evaluate", "prompts": prompts, "best_of": 1}
    of_new, of_old = _evaluations(record, folder)
    return {
        "base": f"{folder}#{stage['name']}" if stage.get("name") else run,
        **{key: old[key] for key in SAME if key in old},
        **({"adapter": "none"} if old.get("adapter", "its own") is None else {}),  # an adapter is trained on as it is
        "data": dict(data),
        "output_dir": str(out),
        "stages": [
            trained,
            {**measured, **of_new, "name": NEW},
            {**measured, **of_old, "name": OLD, "data": before},
        ],
    }


def _evaluations(record: RunRecord, folder: str) -> tuple[Words, Words]:
    """How the last `evaluate` of a run sampled and judged, for new rows and for the run's own.

    Where it named no judge, that is the run's latest reward model, but on own rows whose true reward judged. Its tasks
    are part of the second: what a policy could do before.
    """
    last: Words = next((each for each in reversed(record.recipe["stages"]) if each.get("stage") == "evaluate"), {})
    sampled = {name: last[name] for name in SAMPLING if name in last}
    asked = {name: last[name] for name in ("reward", "judge") if last.get(name) is not None}
    judged = any((result.report.judge or {}).get("kind") == "gold" for result in record.finished)
    truth = asked == {"reward": {"use": "gold"}} or (not asked and judged)
    models = [(result.name, spec) for result in record.finished for spec in result.rewards.values()]
    judge = {} if truth else asked
    if not judge and models:
        name, spec = models[-1]
        judge = {"reward": {"use": "saved", "path": f"{folder}#{name}"} if "path" in spec else dict(spec)}
    tasks = {"tasks": last["tasks"]} if last.get("tasks") else {}
    judge, tasks = (
        _with_saved_rewards(words, lambda named: f"{folder}#{named or _reward_before(record, last)}")
        for words in (judge, tasks)
    )
    return {**sampled, **judge}, {**sampled, **({} if truth else judge), **tasks}


def _with_saved_rewards(words: Any, where: Callable[[str | None], str]) -> Any:
    """A recipe's words, the reward `model` as `saved`: the new run trains no reward model."""
    if isinstance(words, list):
        return [_with_saved_rewards(each, where) for each in words]
    if not isinstance(words, dict):
        return words
    if words.get("use") == "model" and words.keys() <= {"use", "stage"}:
        return {"use": "saved", "path": where(words.get("stage"))}
    return {name: _with_saved_rewards(each, where) for name, each in words.items()}


def _reward_before(record: RunRecord, stage: Words) -> str:
    """The stage that made the latest reward model before another. Raises RunError where there is none."""
    before = takewhile(lambda result: result.name != stage.get("name"), record.finished)
    made = [result.name for result in before if result.rewards]
    if not made:
        raise RunError(f"{record.folder}: no stage before {stage.get('name')} left a reward model")
    return made[-1]


def _kept_optimizer(record: RunRecord, stage: Words) -> bool:
    """Whether the state that a stage kept of its optimizer is still beside the policy that it made."""
    made = next((result for result in record.finished if result.name == stage.get("name")), None)
    paths = [spec["path"] for spec in made.policies.values() if "path" in spec] if made else []
    return bool(stage.get("keep_optimizer")) and any((Path(path).parent / STATE).is_file() for path in paths)


def changes(record: RunRecord) -> list[Change]:
    """What an update changed, on the old data and on the new."""
    found = {result.name: result.evaluation for result in record.finished if result.evaluation}
    return [_change(title, found[name]) for title, name in (("old", OLD), ("new", NEW)) if name in found]


def _change(title: str, evaluation: Evaluation) -> Change:
    before, after = (np.asarray(evaluation.scores[name]) for name in (evaluation.reference, UPDATED))
    found = mean_interval(after - before)
    return Change(title, len(after), float(before.mean()), *found, evaluation.judge)


def _stage(record: RunRecord, name: str) -> Words:
    made = [stage for stage in record.recipe["stages"] if stage.get("stage") in FOLDERS]
    chosen = [stage for stage in made if not name or stage.get("name") == name]
    if not chosen:
        names = ", ".join(str(stage.get("name")) for stage in made) or "none"
        raise RunError(f"{record.folder}: no stage {name!r} trained a policy (those that did: {names})")
    last = next((result.name for result in reversed(record.finished) if result.policies), None)
    if not name and last not in (None, chosen[-1].get("name")):
        nearest = f"{record.folder}#{chosen[-1].get('name')}"
        raise RunError(
            f"{record.folder}: its last policy is of the stage {last}, which is not trained again; name {nearest}"
        )
    return dict(chosen[-1])
