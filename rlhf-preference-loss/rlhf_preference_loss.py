"""A loss of policies on preference pairs: log-probabilities in, one number a pair out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from rlhf_plugins import PairLogps, hookimpl


@dataclass(frozen=True)
class PreferenceLoss:
    """max(0, 1 - beta h), h = log pi/pi_ref(y_w) - log pi/pi_ref(y_l) (say here where yours comes from)."""

    beta: Annotated[float, Field(gt=0, description="strength of the pull towards the reference")] = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        h = (logps.chosen - logps.ref_chosen) - (logps.rejected - logps.ref_rejected)
        return (1 - self.beta * h).clamp(min=0)


@hookimpl
def register_preference_loss() -> dict[str, type]:
    return {"preference_loss": PreferenceLoss}
