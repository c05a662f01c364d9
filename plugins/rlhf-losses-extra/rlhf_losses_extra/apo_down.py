"""APO-down: lowers both responses, and the rejected one more."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from rlhf_plugins import PairLogps, PreferenceLoss, hookimpl


@dataclass(frozen=True)
class APODown(PreferenceLoss):
    """sigmoid(beta r_w) + 1 - sigmoid(beta (r_w - r_l)) (D'Oosterlinck et al. 2024, equation 8).

    For chosen responses that are worse than what the policy writes.
    """

    beta: Annotated[float, Field(gt=0, description="scale of the log-ratios")] = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        won, lost = logps.chosen - logps.ref_chosen, logps.rejected - logps.ref_rejected
        return (self.beta * won).sigmoid() + 1 - (self.beta * (won - lost)).sigmoid()


@hookimpl
def register_preference_loss() -> dict[str, type]:
    return {"apo_down": APODown}
