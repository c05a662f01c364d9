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
from rlhf_plugins.data.file_names import ENSEMBLE
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from rlhf_plugins.reward_models.members import Agreement, Orders
    from rlhf_plugins.reward_models.opening import Accuracies


class Measured(NamedTuple):
    """A member on the new rows."""

    accuracies: Accuracies
    orders: Orders
    mean: float  # mean of its rewards
    deviation: float

    @property
    def prompts(self) -> int:
        """The number of prompts with a pair that it read."""
        return len({prompt for prompt, _, _ in self.orders})


@dataclass(frozen=True)
class Recalibrate(Stage, makes={"reward"}):
    """Measures an ensemble's members again, on the training rows of its `data`, and leaves it with these accuracies.

    Nothing is trained. The aggregation is the ensemble's own: `weighted` and `expert` then weigh by the new accuracies.
    The report has each member's accuracy before and now, how often it orders a pair as another member does (before: on
    the rows that were held out when it was trained), and the mean and spread of its rewards. It names the members whose
    accuracy or agreement has fallen beyond chance, by an interval of the difference (Newcombe 1998) over prompts.
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
        from rlhf_plugins.reward_models.ensemble import read_ensemble
        from rlhf_plugins.reward_models.members import agreement
        from rlhf_plugins.stages.reward_ensemble import by_topic

        source, folder = saved_folder(self.path, "rewards"), run.folder / "model"
        described = read_ensemble(source)
        measured = [_measured(run, source / name, run.data.train) for name in described["members"]]
        accuracy = [one.accuracies.whole for one in measured]
        if None in accuracy:
            raise RunError(f"{self.name}: no row has one response preferred to another that every member can read")
        shutil.copytree(source, folder)
        topics = by_topic([one.accuracies for one in measured])
        alike = agreement([one.orders for one in measured])
        now = {"prompts": [one.prompts for one in measured], "agreement": alike and alike._asdict()}
        changed = {**described, "accuracy": accuracy, "accuracy_by_topic": topics, **now}
        (folder / ENSEMBLE).write_text(json.dumps(changed, indent=2) + "\n")
        return StageResult(
            rewards={self.name: {"use": "saved", "path": str(folder)}},
            metrics={"accuracy": accuracy},
            sections=[_section(described, measured, alike)],
        )


def _measured(run: Run, folder: Path, groups: Sequence[Group]) -> Measured:
    from rlhf_plugins.data.batches.ranked import encodable
    from rlhf_plugins.data.batches.tokens import samples_of
    from rlhf_plugins.reward_models.members import orders
    from rlhf_plugins.reward_models.opening import open_reward, pair_accuracies

    judge = open_reward(folder, run.open, run.base.trust_remote_code)
    assert judge.encoder is not None
    kept, _ = encodable(groups, judge.encoder)
    rewards = judge(samples_of(kept, judge.encoder)).reward
    accuracies, found = pair_accuracies(judge, kept, judge.encoder), orders(judge, kept, judge.encoder)
    return Measured(accuracies, found, float(rewards.mean()), float(rewards.std()))


def _section(described: dict[str, Any], measured: Sequence[Measured], alike: Agreement | None) -> Section:
    rows = _rows(described, measured, alike)
    return Section("Members on new rows", _said(described, measured, alike), rows)


def _said(described: dict[str, Any], measured: Sequence[Measured], alike: Agreement | None) -> str:
    """Which members have drifted."""
    from rlhf_plugins.report.words import wide
    from rlhf_plugins.reward_models.members import Share, drifted

    prompts, before = described.get("prompts"), described.get("agreement")
    found = []
    for place, one in enumerate(measured):
        old = Share(described["accuracy"][place], prompts[place]) if prompts else None
        found.append(drifted(f"member {place}: its accuracy", old, Share(one.accuracies.whole or 0.0, one.prompts)))
        if alike is not None:
            old = Share(before["shares"][place], before["prompts"]) if before else None
            found.append(drifted(f"member {place}: its agreement", old, Share(alike.shares[place], alike.prompts)))
    message = "; ".join(filter(None, found)) or "No member's accuracy or agreement has fallen beyond chance"
    few = wide(min(one.prompts for one in measured))
    return f"{message[0].upper()}{message[1:]}{f' ({few})' if few else ''}."


def _rows(described: dict[str, Any], measured: Sequence[Measured], alike: Agreement | None) -> list[dict[str, Any]]:
    old = described.get("agreement")
    return [
        {
            "member": place,
            "accuracy before": round(before, 3),
            "accuracy now": round(one.accuracies.whole or 0.0, 3),
            "agreement before": old and round(old["shares"][place], 3),
            "agreement now": alike and round(alike.shares[place], 3),
            "prompts": one.prompts,
            "mean reward": round(one.mean, 3),
            "deviation": round(one.deviation, 3),
        }
        for place, (before, one) in enumerate(zip(described["accuracy"], measured, strict=True))
    ]


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"recalibrate": Recalibrate}
