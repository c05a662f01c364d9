"""The stage `reward_ensemble`: trains several reward models on resampled data and leaves them as one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import Aggregation
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.contract.run import ReportParts, Run, StageResult
from rlhf_plugins.errors import RunError
from rlhf_plugins.stages.reward_model import RewardModelStage, Trained, taught

logger = logging.getLogger(__name__)


class Member(NamedTuple):
    """One trained member, and its accuracy on the groups that its bootstrap left out; None where it left out none."""

    trained: Trained
    accuracy: float | None


@dataclass(frozen=True)
class RewardEnsemble(RewardModelStage, processes="several"):
    """Reward models that differ in their seed and, with `bootstrap`, in the groups that they were trained on.

    With an adapter the members share one base; without one each is a whole model. Each member's accuracy is measured
    on the groups that its bootstrap left out (Breiman 1996), about 37%; without bootstrap all count as equal.
    """

    members: Annotated[int, Field(ge=2, description="reward models to train")] = 4
    bootstrap: Annotated[bool, Field(description="draw each member's groups with replacement")] = True
    aggregation: Aggregation = uses("aggregation", "mean")
    early_exit: Annotated[
        bool, Field(description="ask no further member about a prompt whose responses two or more order alike")
    ] = False
    name: str = "reward_ensemble"

    def __post_init__(self) -> None:
        if self.aggregation.reads_accuracy and not self.bootstrap:
            name = type(self.aggregation).__name__
            raise ValueError(
                f"aggregation: {name} needs each member's accuracy, which is measured on what its bootstrap left out; "
                "write bootstrap: true, or aggregation: mean"
            )

    def run(self, run: Run) -> StageResult:
        """Leaves the ensemble in `model/`, its members in `model/0`, `model/1` and so on."""
        from rlhf_plugins.contract import processes
        from rlhf_plugins.reward_models.ensemble import describe

        folder, (groups, unread) = run.folder / "model", taught(self, run)
        members = [self._member(run, member, groups) for member in range(self.members)]
        accuracy = [member.accuracy for member in members]
        known = None not in accuracy
        if not known and self.aggregation.reads_accuracy:
            name = run.spec(self.aggregation)["use"]
            raise RunError(
                f"aggregation {name} needs each member's accuracy, and a bootstrap left out no pair: use mean"
            )
        processes.on_main(
            lambda: describe(
                folder,
                [str(member) for member in range(self.members)],
                run.spec(self.aggregation),
                accuracy=accuracy if known else [1.0] * self.members,
                early_exit=self.early_exit,
            )
        )
        left_out = Counter[str]()
        for member in members:
            left_out.update(member.trained.left_out)
        curves = {f"{name}_{i}": points for i, m in enumerate(members) for name, points in m.trained.curves.items()}
        return StageResult(
            rewards={self.name: {"use": "saved", "path": str(folder)}},
            metrics={"out_of_bag_accuracy": accuracy},
            report=ReportParts(
                left_out={f"{k}, of all members": v for k, v in left_out.items()} | unread,
                notes=[f"Member {i}: {note}" for i, m in enumerate(members) for note in m.trained.spent.notes],
            ),
            sections=[section for member in members for section in member.trained.alarms],
            curves=curves,
        )

    def _member(self, run: Run, member: int, groups: Sequence[Group]) -> Member:
        from rlhf_plugins.trainers.budget import shared_budget

        logger.info("training member %d of %d", member + 1, self.members)
        rng = np.random.default_rng([run.seed, member])
        drawn = rng.integers(len(groups), size=len(groups)) if self.bootstrap else np.arange(len(groups))
        folder = run.folder / "model" / str(member)
        trained = replace(self, budget=shared_budget(self.budget, self.members)).train(
            run, [groups[i] for i in drawn], folder, member
        )
        seen = set(drawn.tolist())
        return Member(trained, _accuracy(run, folder, [g for i, g in enumerate(groups) if i not in seen]))


def _accuracy(run: Run, folder: Path, groups: Sequence[Group]) -> float | None:
    """The share of strictly ordered pairs of the groups that a trained member orders so; None where there is none."""
    from rlhf_plugins.data.ranked import encodable
    from rlhf_plugins.engine.loading import load_row_encoder
    from rlhf_plugins.reward_models.opening import open_reward, pair_accuracy

    encoder = load_row_encoder(run.base)
    kept, _ = encodable(groups, encoder)
    judge = open_reward(folder, run.open, run.base.trust_remote_code)
    return pair_accuracy(judge, kept, encoder) if kept else None


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"reward_ensemble": RewardEnsemble}
