"""cDPO: DPO that takes a share of the labels to be wrong, so that it stops short of certainty."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_plugins import PairLogps, PreferenceLoss, hookimpl


@dataclass(frozen=True)
class CDPO(PreferenceLoss, takes_probabilities=True):
    """-q log sigmoid(beta h) - (1 - q) log sigmoid(-beta h), q = e + (1 - 2e) p, p the soft label (Mitchell 2023)."""

    beta: Annotated[float, Field(gt=0, description="strength of the pull towards the reference")] = 0.1
    epsilon: Annotated[float, Field(ge=0, lt=0.5, description="e, the share of labels taken to be wrong")] = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        h = self.beta * ((logps.chosen - logps.ref_chosen) - (logps.rejected - logps.ref_rejected))
        q = self.epsilon + (1 - 2 * self.epsilon) * logps.probability
        return -q * logsigmoid(h) - (1 - q) * logsigmoid(-h)


@hookimpl
def register_preference_loss() -> dict[str, type]:
    return {"cdpo": CDPO}
