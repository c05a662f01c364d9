"""The stage `reward_ensemble`: trains several reward models on resampled data and leaves them as one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from rlhf_plugins.hookspecs import hookimpl
from rlhf_plugins.interfaces import Aggregation, Group, Run, StageResult, uses
from rlhf_plugins.stages.reward import Reward, taught

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RewardEnsemble(Reward):
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
    kind: ClassVar[str] = "reward_ensemble"

    def run(self, run: Run) -> StageResult:
        """Leaves the ensemble in `model/`, its members in `model/0`, `model/1` and so on."""
        from rlhf_plugins.models.ensemble import describe

        folder = run.folder / "model"
        groups, accuracy = taught(self.teacher, run), []
        curves: dict[str, Sequence[tuple[int, float]]] = {}
        for member in range(self.members):
            logger.info("training member %d of %d", member + 1, self.members)
            rng = np.random.default_rng([run.seed, member])
            drawn = rng.integers(len(groups), size=len(groups)) if self.bootstrap else np.arange(len(groups))
            trained = self.train(run, [groups[i] for i in drawn], folder / str(member), run.seed + member)
            curves |= {f"{name}_{member}": points for name, points in trained.curves.items()}
            left_out = [group for i, group in enumerate(groups) if i not in set(drawn.tolist())]
            accuracy.append(_accuracy(run, str(member), left_out))
        names = [str(member) for member in range(self.members)]
        describe(folder, names, run.spec(self.aggregation), accuracy=_known(accuracy), early_exit=self.early_exit)
        metrics = {"out_of_bag_accuracy": accuracy, "left_out": trained.left_out}
        return StageResult(self.name, self.kind, reward_model=folder, metrics=metrics, curves=curves)


def _accuracy(run: Run, member: str, groups: Sequence[Group]) -> float | None:
    """The share of strictly ordered pairs of the groups that a trained member orders so; None where there is none."""
    from rlhf_plugins.models.judges import open_judge, pair_accuracy

    if not groups:
        return None
    judge = open_judge(run.folder / "model" / member, run.component, run.base.trust_remote_code)
    return pair_accuracy(judge, groups, run.base)


def _known(accuracy: Sequence[float | None]) -> list[float]:
    """Equal where any is unknown."""
    return [1.0] * len(accuracy) if None in accuracy else [float(value or 0.0) for value in accuracy]


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"reward_ensemble": RewardEnsemble}
