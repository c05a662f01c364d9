"""APO-zero: raises the chosen response and lowers the rejected one, each by itself."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from rlhf_plugins import PairLogps, PreferenceLoss, hookimpl


@dataclass(frozen=True)
class APOZero(PreferenceLoss):
    """1 - sigmoid(beta r_w) + sigmoid(beta r_l) (D'Oosterlinck et al. 2024, equation 7).

    For chosen responses that are better than what the policy writes.
    """

    beta: Annotated[float, Field(gt=0, description="scale of the log-ratios")] = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        won, lost = logps.chosen - logps.ref_chosen, logps.rejected - logps.ref_rejected
        return 1 - (self.beta * won).sigmoid() + (self.beta * lost).sigmoid()


@hookimpl
def register_preference_loss() -> dict[str, type]:
    return {"apo_zero": APOZero}
