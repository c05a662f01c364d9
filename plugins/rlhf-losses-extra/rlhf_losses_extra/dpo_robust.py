"""Robust DPO: an unbiased estimate of DPO's loss under true labels from labels of which a known share is flipped."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_plugins import PairLogps, PreferenceLoss, hookimpl


@dataclass(frozen=True)
class RobustDPO(PreferenceLoss):
    """(-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)) / (1 - 2 e) (Chowdhury et al. 2024)."""

    beta: Annotated[float, Field(gt=0, description="strength of the pull towards the reference")] = 0.1
    epsilon: Annotated[float, Field(ge=0, lt=0.5, description="e, the share of labels that are flipped")] = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        h = self.beta * ((logps.chosen - logps.ref_chosen) - (logps.rejected - logps.ref_rejected))
        right, flipped = -logsigmoid(h), -logsigmoid(-h)
        return ((1 - self.epsilon) * right - self.epsilon * flipped) / (1 - 2 * self.epsilon)


@hookimpl
def register_preference_loss() -> dict[str, type]:
    return {"dpo_robust": RobustDPO}
