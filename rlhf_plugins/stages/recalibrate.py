"""The stage `recalibrate`: measures the members of a trained ensemble on new rows, and weighs them by that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.on_disk import OnDisk
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.contract.run import Run, Section, StageResult
from rlhf_plugins.contract.run_kinds import DataFormat, Stage
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from rlhf_plugins.reward_models.opening import Accuracies


class Measured(NamedTuple):
    """A member on the new rows."""

    accuracies: Accuracies
    mean: float  # of its rewards
    deviation: float


@dataclass(frozen=True)
class Recalibrate(Stage, makes={"reward"}):
    """Measures an ensemble's members again, on the training rows of its `data`, and leaves it with these accuracies.

    Nothing is trained. The aggregation is the ensemble's own: `weighted` and `expert` then weigh by the new accuracies.
    The report has each member's accuracy before and now, and the mean and spread of its rewards: a member that has
    drifted from the others is seen.
    """

    path: Annotated[str, OnDisk("#"), Field(min_length=1, description="the ensemble: RUN, RUN#STAGE, or its folder")]
    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    name: str = "recalibrate"

    def missing(self) -> dict[str, str]:
        """The ensemble, where it is not there."""
        from rlhf_plugins.data.other_run import missing_rewards

        return missing_rewards(self.path)

    def run(self, run: Run) -> StageResult:
        """Leaves the ensemble in `model/`. Raises RunError where it is none, or a member can judge no pair."""
        from rlhf_plugins.data.other_run import saved_folder
        from rlhf_plugins.reward_models.ensemble import DESCRIPTION, read_ensemble
        from rlhf_plugins.stages.reward_ensemble import by_topic

        source, folder = saved_folder(self.path, "rewards"), run.folder / "model"
        described = read_ensemble(source)
        measured = [_measured(run, source / name, run.data.train) for name in described["members"]]
        accuracy = [one.accuracies.whole for one in measured]
        if None in accuracy:
            raise RunError(f"{self.name}: no row has one response preferred to another that every member can read")
        shutil.copytree(source, folder)
        topics = by_topic([one.accuracies for one in measured])
        changed = {**described, "accuracy": accuracy, "accuracy_by_topic": topics}
        (folder / DESCRIPTION).write_text(json.dumps(changed, indent=2) + "\n")
        return StageResult(
            rewards={self.name: {"use": "saved", "path": str(folder)}},
            metrics={"accuracy": accuracy},
            sections=[Section("Members on new rows", rows=_rows(described, measured))],
        )


def _measured(run: Run, folder: Path, groups: Sequence[Group]) -> Measured:
    from rlhf_plugins.data.ranked import encodable
    from rlhf_plugins.data.tokens import samples_of
    from rlhf_plugins.reward_models.opening import open_reward, pair_accuracies

    judge = open_reward(folder, run.open, run.base.trust_remote_code)
    assert judge.encoder is not None
    kept, _ = encodable(groups, judge.encoder)
    rewards = judge(samples_of(kept, judge.encoder)).reward
    return Measured(pair_accuracies(judge, kept, judge.encoder), float(rewards.mean()), float(rewards.std()))


def _rows(described: dict[str, Any], measured: Sequence[Measured]) -> list[dict[str, Any]]:
    return [
        {
            "member": place,
            "accuracy before": round(before, 3),
            "accuracy now": round(one.accuracies.whole or 0.0, 3),
            "mean reward": round(one.mean, 3),
            "deviation": round(one.deviation, 3),
        }
        for place, (before, one) in enumerate(zip(described["accuracy"], measured, strict=True))
    ]


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"recalibrate": Recalibrate}
