"""The recipe that trains an old policy on new data, and what it kept of the old: arithmetic and words, no command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from rlhf_plugins import Evaluation, RunError, RunRecord, open_run

Words = dict[str, Any]
OLD, NEW, UPDATED = "on_old", "on_new", "updated"
FOLDERS = {"preference", "sft", "online"}  # stages whose policy an update trains further
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
    trained = {**stage, "name": UPDATED, "from": "previous", "regularizers": [*stage.get("regularizers", []), *held]}
    measured = {"stage": "evaluate", "prompts": prompts, "best_of": 1}
    return {
        "base": f"{folder}#{stage['name']}" if stage.get("name") else run,
        **{key: old[key] for key in SAME if key in old},
        **({"adapter": "none"} if old.get("adapter", "its own") is None else {}),  # an adapter is trained on as it is
        "data": dict(data),
        "output_dir": str(out),
        "stages": [trained, {**measured, "name": NEW}, {**measured, "name": OLD, "data": before}],
    }


def changes(record: RunRecord) -> list[Change]:
    """What an update changed, on the old data and on the new."""
    found = {result.name: result.evaluation for result in record.finished if result.evaluation}
    return [_change(title, found[name]) for title, name in (("old", OLD), ("new", NEW)) if name in found]


def _change(title: str, evaluation: Evaluation) -> Change:
    before, after = (np.asarray(evaluation.scores[name]) for name in (evaluation.reference, UPDATED))
    gains = after - before
    mean, error = float(gains.mean()), float(stats.sem(gains))
    low, high = stats.t.interval(0.95, len(gains) - 1, mean, error) if error else (mean, mean)
    return Change(title, len(gains), float(before.mean()), mean, float(low), float(high))


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
