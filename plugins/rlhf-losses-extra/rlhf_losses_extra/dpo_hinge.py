"""SLiC's hinge on DPO's implicit rewards: a pair that is ordered by enough costs nothing."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from rlhf_plugins import PairLogps, PreferenceLoss, hookimpl


@dataclass(frozen=True)
class HingeDPO(PreferenceLoss):
    """max(0, 1 - beta h): the rank calibration of SLiC (Zhao et al. 2023) on log-ratios (Liu et al. 2024, RSO)."""

    beta: Annotated[
        float, Field(gt=0, description="1 / beta is the gap of log-ratios beyond which nothing is lost")
    ] = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        h = (logps.chosen - logps.ref_chosen) - (logps.rejected - logps.ref_rejected)
        return (1 - self.beta * h).clamp(min=0)


@hookimpl
def register_preference_loss() -> dict[str, type]:
    return {"dpo_hinge": HingeDPO}
