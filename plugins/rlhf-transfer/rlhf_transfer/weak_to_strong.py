"""The stage `weak_to_strong`: a weak reward model labels, a strong one learns, and what it recovers is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from rlhf_plugins import Data, DataFormat, Group, RewardLoss, Run, RunError, Section, Stage, StageResult, hookimpl, uses
from rlhf_transfer.labels import Pairs, labelled, pairs, right, split
from rlhf_transfer.recovered import Estimate, accuracy, recovered

ABOUT = (
    "PGR is the share of the gap between the weak supervisor and the ceiling that the student recovers (Burns et al. "
    "2023). The ceiling is the strong model trained on the {labels} of the rows that the student learned from. "
    "Accuracies are on {pairs} held-out pairs, by {truth}."
)


@dataclass(frozen=True)
class WeakToStrong(Stage, makes={"reward"}):
    """A strong reward model learns from the labels of a weak one (Burns et al. 2023).

    The weak one learns from the labels of a share of the prompts, and labels the pairs of the others, from which the
    strong one learns; beside it the same strong one learns from the true labels of those pairs, as the ceiling.
    """

    strong: Stage = uses("stage", "reward_model", tag="stage")
    weak: Stage | None = uses("stage", optional=True, tag="stage")  # None: who judged the rows is the weak supervisor
    loss: RewardLoss | None = uses("reward_loss", optional=True)  # the student's; None: that of `strong`
    share: Annotated[float, Field(gt=0, lt=1, description="of the prompts, from which the weak one learns")] = 0.5
    soft: Annotated[bool, Field(description="the weak one's labels are probabilities, not certain")] = True
    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    name: str = "weak_to_strong"

    def __post_init__(self) -> None:
        for name in ("weak", "strong"):
            stage = getattr(self, name)
            if stage is not None and "reward" not in stage.makes:
                raise ValueError(f"{name}: should be a stage that makes a reward, such as reward_model")
            if stage is not None and stage.data is not None:
                raise ValueError(f"{name}: data: its rows are a part of those of this stage; give them to it")
        if self.weak is None and (self.share != 0.5 or not self.soft):
            raise ValueError("share, soft: are of the labels of a stage `weak`, and there is none")
        if self.loss is not None and not hasattr(self.strong, "loss"):
            raise ValueError("loss: the stage of `strong` has no loss that it could replace")

    def run(self, run: Run) -> StageResult:
        """Hands on the student; weak supervisor and ceiling are in its folder.

        Raises:
            RunError: nobody is the weak supervisor, or a part has no pair.
        """
        known = all(group.gold for group in run.data.test)
        if self.weak is None and not (known and all(group.gold for group in run.data.train)):
            raise RunError(
                f"{self.name}: give a stage as `weak`; only simulated rows have a true reward to correct them"
            )
        held_out = pairs(run.data.test, known)
        if not held_out.places:
            raise RunError(f"{self.name}: no held-out pair is strictly ordered")
        weak, rest, labels = self._supervised(run, held_out)
        strong: Any = self.strong
        student = strong if self.loss is None else replace(strong, loss=self.loss)
        asked = {"student": (student, labels), "ceiling": (strong, rest)}
        found = {"weak": weak}
        specs = {}
        for name, (stage, groups) in asked.items():
            made = run.train(stage, name=name, data=self._data(run, groups))
            specs[name] = next(iter(made.rewards.values()))
            found[name] = right(held_out, scores(run, specs[name], held_out.groups))
        truth = "the true reward" if known else "their labels"
        true_labels = "true order" if self.weak is None else "own labels"
        text = ABOUT.format(labels=true_labels, pairs=len(held_out.places), truth=truth)
        gap = recovered(found["weak"], found["student"], found["ceiling"], held_out.prompts, run.seed)
        measured = {name: accuracy(each, held_out.prompts, run.seed) for name, each in found.items()}
        return StageResult(
            rewards={self.name: specs["student"]},
            sections=[
                Section("From weak to strong", text, [*map(_row, *zip(*measured.items(), strict=True)), _gap(gap)])
            ],
            metrics={name: _number(each) for name, each in {**measured, "recovered": gap}.items()},
        )

    def _supervised(self, run: Run, held_out: Pairs) -> tuple[Any, list[Group], list[Group]]:
        """Which held-out pairs the supervisor orders rightly, the rows of the ceiling and those of the student."""
        if self.weak is None:
            rows = [group for group in run.data.train if group.comparisons]
            truth = labelled(rows, [group.gold or () for group in rows], soft=False)
            return held_out.kept, truth, rows
        first, rest = split(run.data.train, self.share, run.seed)
        made = run.train(self.weak, name="weak", data=self._data(run, first))
        spec = next(iter(made.rewards.values()))
        labels = labelled(rest, scores(run, spec, rest), self.soft)
        if not labels:
            raise RunError(f"{self.name}: no pair is left to label; a smaller `share` leaves more")
        return right(held_out, scores(run, spec, held_out.groups)), rest, labels

    def _data(self, run: Run, groups: Sequence[Group]) -> Data:
        return Data(tuple(groups), run.data.test, run.data.prompts)


def scores(run: Run, spec: Any, groups: Sequence[Group]) -> list[list[float]]:
    """The rewards of each group's responses by a saved reward model."""
    judge = run.open("reward", spec)
    asked = [group for group in groups for _ in group.responses]
    texts = [text for group in groups for text in group.responses]
    of_group = [place for place, group in enumerate(groups) for _ in group.responses]  # compared, if by a vote
    found = iter(judge.predict(replace(judge.encode(asked, texts), siblings=of_group)).reward.tolist())
    return [[next(found) for _ in group.responses] for group in groups]


def _row(name: str, found: Estimate) -> dict[str, Any]:
    return {"model": name, "accuracy": round(found.value, 4), "95% interval": f"{found.low:.3f} to {found.high:.3f}"}


def _gap(found: Estimate) -> dict[str, Any]:
    if found.value != found.value:
        return {"model": "PGR", "accuracy": "-", "95% interval": "not defined: the ceiling is not above the weak one"}
    return {"model": "PGR", "accuracy": round(found.value, 3), "95% interval": f"{found.low:.2f} to {found.high:.2f}"}


def _number(found: Estimate) -> dict[str, float | None]:
    return {name: None if value != value else value for name, value in found._asdict().items()}


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"weak_to_strong": WeakToStrong}
