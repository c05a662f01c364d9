"""The reward `trusted`: another reward that abstains, or asks a third, where a response is unlike those of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rlhf_plugins import Prediction, Reward, Run, RunError, Samples, hookimpl, uses
from rlhf_watch.shift.distance import Distance
from rlhf_watch.shift.units import one_each

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_plugins import RewardModel


@dataclass(frozen=True)
class Trusted(Reward):
    """Abstains where a response's features are farther from those of the training responses than all but `rate` are.

    The distance is Mahalanobis, its threshold the quantile of each training row's distance to the others; one response
    of each prompt is taken, since a sibling among the others would make that too small.
    """

    reward: Reward = uses("reward", "model")
    rate: Annotated[float, Field(gt=0, lt=1, description="of responses like those of training that abstain")] = 0.01
    rows: Annotated[
        int, Field(ge=20, description="training responses, one of each prompt, that the distance is fitted to, at most")
    ] = 1000
    fallback: Reward | None = uses("reward", optional=True)

    def build(self, run: Run) -> TrustedReward:
        """Raises RunError where the reward has no features, or the run no training responses."""
        judge: Any = self.reward.build(run)
        if not hasattr(judge, "encode"):
            raise RunError("trusted: its reward should be a reward model, which has features")
        answers = ((group.prompt, text) for group in run.data.train for text in group.responses)
        texts = one_each(answers)[: self.rows]
        features = judge.predict(judge.encode(*map(list, zip(*texts, strict=True)))).features if texts else None
        if features is None:
            raise RunError("trusted: there are no features: no training response, or a reward model without any")
        distance = Distance.of(features.double().cpu().numpy())
        other = None if self.fallback is None else self.fallback.build(run)
        return TrustedReward(judge, distance, distance.threshold(self.rate), other)


@dataclass(frozen=True)
class TrustedReward:
    """What it builds.

    Args:
        judge: a reward model with features.
        distance: to the training responses.
        threshold: beyond which the judge is not asked.
        other: is asked instead; None abstains.
    """

    judge: RewardModel
    distance: Distance
    threshold: float
    other: Any = None

    def __call__(self, samples: Samples) -> Prediction:
        """Rewards, and which of them mean nothing."""
        import torch

        found = self.judge.predict(samples)
        assert found.features is not None
        strange = torch.from_numpy(self.distance(found.features.double().cpu().numpy()) > self.threshold)  # (B,)
        before = found.abstained if found.abstained is not None else torch.zeros_like(strange)
        if self.other is None or not strange.any():
            return replace(found, abstained=before | strange)
        places = strange.nonzero()[:, 0].tolist()
        rewards, abstained = _filled(self.other(samples.take(places)), len(places))
        reward, out = found.reward.clone(), before.clone()
        reward[strange], out[strange] = rewards.to(reward.dtype), abstained
        return Prediction(reward, features=found.features, abstained=out)


def _filled(answer: Prediction | Sequence[float | None], count: int) -> tuple[Tensor, Tensor]:
    """Rewards, 0 where there is none, and where that is."""
    import torch

    if isinstance(answer, Prediction):
        out = torch.zeros(count, dtype=torch.bool) if answer.abstained is None else answer.abstained
        return answer.reward.cpu(), out
    values = [0.0 if value is None else float(value) for value in answer]
    return torch.tensor(values), torch.tensor([value is None for value in answer])


@hookimpl
def register_reward() -> dict[str, type[Reward]]:
    """The reward of this file."""
    return {"trusted": Trusted}
