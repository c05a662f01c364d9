"""The stage `label_check`: lists the labels that a reward model contradicts which was trained without them."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, fsum
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.contract.run import Base, ReportParts, Run, Section, StageResult
from rlhf_plugins.contract.workload import Kept
from rlhf_plugins.errors import RunError
from rlhf_plugins.stages.reward_model import RewardModelStage, Trained, taught

logger = logging.getLogger(__name__)
SUSPECTS = "suspects.jsonl"
SHOWN, LETTERS = 20, 80  # rows of the report's table, and letters of a text in it
CONTRADICTED = "label_check: contradicted by a reward model"


class Judged(NamedTuple):
    """A strict comparison of a row, and the probability of its label by a model that was trained without the row."""

    row: int
    place: int  # among the row's comparisons
    probability: float


@dataclass(frozen=True)
class LabelCheck(RewardModelStage, makes={"data"}, processes="one"):
    """Finds wrong labels by cross-fitting: p = sigmoid(r_better - r_worse) by a reward model that never saw the prompt.

    The prompts are dealt into `folds` folds, and the model that judges one is trained on the others, as the stage
    `reward_model` would be (out-of-sample probabilities as in Northcutt et al. 2021, section 3.1). A label is suspect
    where p < `threshold`; 0.5 is where the model prefers the other response. All are in `suspects.jsonl`, the least
    likely first. The rows are handed on with 1 - p, the mean over a row's labels, as `difficulty` where they have none.
    """

    folds: Annotated[int, Field(ge=2, description="models to train")] = 5
    threshold: Annotated[float, Field(gt=0, le=1, description="probability of a label below which it is suspect")] = 0.5
    suspects: Annotated[
        Literal["listed", "dropped"], Field(description="whether the data that are handed on have suspect labels")
    ] = "listed"
    name: str = "label_check"

    def rehearse(self, run: Run) -> Kept | None:
        """See `Stage`."""
        found = super().rehearse(run)
        _dealt(run.data.train, self.folds, run.seed)
        return found

    def run(self, run: Run) -> StageResult:
        """Leaves `suspects.jsonl`. Raises RunError where there are fewer prompts than folds, or no strict label."""
        groups, unread = taught(self, run)
        dealt = _dealt(groups, self.folds, run.seed)
        judged, trained = list[Judged](), list[Trained]()
        for fold in range(self.folds):
            made, found = self._fold(run, groups, dealt, fold)
            judged += found
            trained.append(made)
        if not judged:
            raise RunError(f"{self.name}: no row has one response preferred to another that a model can read")
        suspects = sorted((one for one in judged if one.probability < self.threshold), key=lambda one: one.probability)
        rows = [_shown(groups[one.row], one) for one in suspects]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (run.folder / SUSPECTS).write_text(text, encoding="utf-8")
        shutil.rmtree(run.folder / "folds")
        left_out = Counter[str]()
        for one in trained:
            left_out.update(one.left_out)
        right = fsum((one.probability > 0.5) + 0.5 * (one.probability == 0.5) for one in judged)
        return StageResult(
            data=self._handed_on(run.data, groups, judged, suspects),
            metrics={"labels": len(judged), "suspects": len(suspects), "out_of_fold_accuracy": right / len(judged)},
            report=ReportParts(
                left_out={f"{k}, of all folds": v for k, v in left_out.items()} | unread,
                notes=[f"Fold {i}: {note}" for i, one in enumerate(trained) for note in one.notes],
            ),
            sections=[_section(self.threshold, len(judged), rows), *(part for one in trained for part in one.alarms)],
            curves={f"{name}_{i}": curve for i, one in enumerate(trained) for name, curve in one.curves.items()},
        )

    def _fold(self, run: Run, groups: Sequence[Group], dealt: Sequence[int], fold: int) -> tuple[Trained, list[Judged]]:
        """A model trained on the other folds, and what it says of the labels of this one."""
        from rlhf_plugins.reward_models.opening import open_reward
        from rlhf_plugins.trainers.watching.budget import shared_budget

        logger.info("training on all folds but %d of %d", fold + 1, self.folds)
        folder = run.folder / "folds" / str(fold)
        others = [group for group, dealt_to in zip(groups, dealt, strict=True) if dealt_to != fold]
        part = replace(self, budget=shared_budget(self.budget, self.folds))
        trained = part.train(run, others, folder, fold)
        judge = open_reward(folder, run.open, run.base.trust_remote_code)
        own = [row for row, dealt_to in enumerate(dealt) if dealt_to == fold]
        return trained, _judged(judge, self.own_base(run), groups, own)

    def _handed_on(self, data: Data, groups: Sequence[Group], judged: list[Judged], suspects: list[Judged]) -> Data:
        from rlhf_plugins.data.changes.steps import copied, judged_less

        wrong = {(one.row, one.place) for one in suspects} if self.suspects == "dropped" else set()
        found: dict[int, list[Judged]] = {}
        for one in judged:
            found.setdefault(one.row, []).append(one)
        dropped, train = copied(data), list[Group]()
        for row, group in enumerate(groups):
            labels = found.get(row, [])
            if labels and group.difficulty is None:
                group = replace(group, difficulty=1 - fsum(one.probability for one in labels) / len(labels))
            gone = {one.place for one in labels if (row, one.place) in wrong}
            for _ in gone:
                dropped.add(CONTRADICTED, str(group.origin or "a row"))
            if (left := judged_less(group, gone)).comparisons or not gone:
                train.append(left)
        return replace(data, train=tuple(train), dropped=dropped)


def _dealt(groups: Sequence[Group], folds: int, seed: int) -> list[int]:
    """The fold of each row; the rows of a prompt are in one. Raises RunError where there are fewer prompts."""
    from rlhf_plugins.data.splits import in_random_order

    names = in_random_order(groups, seed)
    if len(names) < folds:
        raise RunError(f"folds: {folds}, but there are {len(names)} prompts; write fewer")
    fold = {name: place % folds for place, name in enumerate(names)}
    return [fold[group.prompt_words] for group in groups]


def _judged(judge: Any, base: Base, groups: Sequence[Group], rows: Sequence[int]) -> list[Judged]:
    """The probability of each strict label of these rows whose two responses the model can read."""
    from rlhf_plugins.data.batches.ranked import encodable
    from rlhf_plugins.data.batches.tokens import samples_of
    from rlhf_plugins.data.fields import key
    from rlhf_plugins.engine.weights.loading import load_row_encoder

    encoder = load_row_encoder(base)
    readable = [(row, group) for row in rows for group in encodable([groups[row]], encoder)[0]]
    texts = [(row, key(response)) for row, group in readable for response in group.responses]
    samples = samples_of((group for _, group in readable), encoder)
    reward = dict(zip(texts, judge.predict(samples).reward.tolist() if readable else [], strict=True))
    found = []
    for row in rows:
        of = [reward.get((row, key(response))) for response in groups[row].responses]
        for place, c in enumerate(groups[row].comparisons):
            better, worse = of[c.better], of[c.worse]
            if not c.tied and better is not None and worse is not None:
                found.append(Judged(row, place, _sigmoid(better - worse)))
    return found


def _sigmoid(gap: float) -> float:
    return 1 / (1 + exp(-gap)) if gap >= 0 else 1 - 1 / (1 + exp(gap))


def _shown(group: Group, one: Judged) -> dict[str, Any]:
    c = group.comparisons[one.place]
    return {
        "origin": str(group.origin or ""),
        "probability": round(one.probability, 6),
        "prompt": group.prompt,
        "chosen": group.responses[c.better],
        "rejected": group.responses[c.worse],
    }


def _section(threshold: float, labels: int, rows: Sequence[dict[str, Any]]) -> Section:
    from rlhf_plugins.data.fields import content

    texts = ("prompt", "chosen", "rejected")
    cut = [{**row, **{name: content(row[name])[:LETTERS] for name in texts}} for row in rows[:SHOWN]]
    shown = f", of which the least likely {len(cut)} are here" if len(cut) < len(rows) else ""
    words = f"{len(rows)} of {labels} labels have a probability below {threshold:g} by a model trained without them"
    return Section("Labels that a reward model contradicts", f"{words}{shown}; all are in {SUSPECTS}.", cut)


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"label_check": LabelCheck}
