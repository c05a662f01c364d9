"""The monitor `reward_gap`: audits a few responses of each rollout, and finds when the reward is exploited."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from rlhf_plugins import Monitor, Prediction, Reward, RewardUnavailable, Run, Step, hookimpl, uses
from rlhf_watch.alarms.departures import Gap
from rlhf_watch.alarms.watched import Watched, Watching

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RewardGap(Watched):
    """A CUSUM of how much less audited responses are worth than their reward predicts. It alone may act.

    The prediction is a regression on the first audited responses; the error of its slope is allowed for.
    """

    audit: Reward = uses("reward", "gold")
    each: Annotated[int, Field(ge=1, description="responses of a rollout that are audited")] = 8
    first: Annotated[int, Field(ge=16, description="responses of the first rollouts that are audited")] = 512
    action: Annotated[
        Literal["stop", "end", "scale_lr", "scale_kl"] | None,
        Field(description="what its alarm does; needs `thresholds`"),
    ] = None
    factor: Annotated[float, Field(gt=0, description="of `scale_lr` and `scale_kl`")] = 1.0
    scored_alone = "an audit scores single ones"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.action and not self.thresholds:
            raise ValueError("action: an alarm may act only where its false-alarm rate is known: give `thresholds`")
        if (self.action in ("scale_lr", "scale_kl")) == (self.factor == 1.0):
            raise ValueError("factor: goes with `action: scale_lr` or `scale_kl`, of which 1 changes nothing")

    def build(self, run: Run) -> Watching:
        """Raises RunError where the audit cannot be built, or compares responses."""
        from rlhf_plugins import fitting

        gap, judge = Gap(self.first), self.audit.build(run)
        fitting(self, "audit", judge)

        def add(step: Step) -> bool:
            places = self.picked(step, gap.wanted or self.each, run.seed)
            if step.samples is None or not places:
                return False
            try:
                worths = _numbers(judge(step.samples.take(places)))
            except RewardUnavailable as error:  # a failure is no number
                logger.warning("step %d: nothing was audited: %s", step.step, error)
                return False
            gap.add([step.responses["reward"][place] for place in places], worths)
            return gap.fit is not None

        def worst(step: Step) -> list[int]:
            """The audited, those with the largest reward first."""
            return sorted(self.picked(step, self.each, run.seed), key=lambda place: -step.responses["reward"][place])

        says = "responses are worth less than their reward predicts, summed deviations"
        return Watching(self, run, gap, add, worst, says)

    def picked(self, step: Step, count: int, seed: int) -> list[int]:
        """Random responses of a rollout, the same whenever they are asked for."""
        rewards = np.asarray(step.responses.get("reward", ()), dtype=float)
        scored = np.flatnonzero(np.isfinite(rewards))
        return [int(i) for i in np.random.default_rng([seed, step.step]).permutation(scored)[:count]]


def _numbers(answer: Prediction | Sequence[Any]) -> list[float]:
    """Worths, NaN where the judge abstained."""
    if isinstance(answer, Prediction):
        worths = answer.reward.float().clone()
        if answer.abstained is not None:
            worths[answer.abstained] = float("nan")
        return [float(worth) for worth in worths]
    return [float("nan") if worth is None else float(worth) for worth in answer]


@hookimpl
def register_monitor() -> dict[str, type[Monitor]]:
    """The monitor of this file."""
    return {"reward_gap": RewardGap}
