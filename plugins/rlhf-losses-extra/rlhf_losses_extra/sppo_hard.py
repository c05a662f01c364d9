"""SPPO with certain labels: each log-ratio goes to a target of its own."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from rlhf_plugins import PairLogps, PreferenceLoss, hookimpl


@dataclass(frozen=True)
class SPPOHard(PreferenceLoss):
    """(r_w - 1/(2 beta))^2 + (r_l + 1/(2 beta))^2 (Wu et al. 2024, equation 4.7 at certain labels)."""

    beta: Annotated[float, Field(gt=0, description="1 / beta is the distance of the targets, in nats")] = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        target = 1 / (2 * self.beta)
        return (logps.chosen - logps.ref_chosen - target) ** 2 + (logps.rejected - logps.ref_rejected + target) ** 2


@hookimpl
def register_preference_loss() -> dict[str, type]:
    return {"sppo_hard": SPPOHard}
