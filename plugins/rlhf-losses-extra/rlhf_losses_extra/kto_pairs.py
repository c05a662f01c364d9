"""KTO's value function on pairs: each response is good or bad by itself, against a reference point of the batch."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from rlhf_plugins import PairLogps, PreferenceLoss, hookimpl


@dataclass(frozen=True)
class KTOPairs(PreferenceLoss, uses_batch_mates=True, holds_constant=True):
    """w sigmoid(beta (z - r_w)) + sigmoid(beta (r_l - z)) (Ethayarajh et al. 2024, equation 8, with z of the pairs)."""

    beta: Annotated[float, Field(gt=0, description="how soon gains and losses saturate")] = 0.1
    desirable: Annotated[float, Field(gt=0, description="w, what a better response weighs beside a worse")] = 1.0

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        good, bad = logps.chosen - logps.ref_chosen, logps.rejected - logps.ref_rejected
        z = ((good + bad) / 2).mean().clamp(min=0).detach()
        return self.desirable * (self.beta * (z - good)).sigmoid() + (self.beta * (bad - z)).sigmoid()


@hookimpl
def register_preference_loss() -> dict[str, type]:
    return {"kto_pairs": KTOPairs}
