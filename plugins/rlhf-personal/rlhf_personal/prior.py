"""The regularizer `near_shared`: a user's weights stay near those of all, unless their judgements say otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from rlhf_personal.head import Table
from rlhf_plugins import Regularizer, Run, RunError, hookimpl


@dataclass(frozen=True)
class NearShared(Regularizer):
    """strength / (2 U) sum_u |delta_u|^2 over the U users of the head `personal`.

    It is a normal prior on theta_task = theta_meta + delta, the proximal term of meta-learning (Rajeswaran et al. 2019,
    equation 3). Beside a loss that is a mean over judgements, n of each user, delta has the variance
    1 / (n strength) under it.
    """

    strength: Annotated[float, Field(gt=0, description="lambda")] = 0.01

    def build(self, run: Run, model: nn.Module) -> Callable[[], Tensor]:
        """Raises RunError where the model has no head `personal`."""
        shifts = [part.shift for part in model.modules() if isinstance(part, Table)]
        if len(shifts) != 1:
            raise RunError("near_shared holds the weights of users: it needs `head: {use: personal, users: ...}`")
        return lambda: self.strength / (2 * len(shifts[0])) * shifts[0].square().sum()


@hookimpl
def register_regularizer() -> dict[str, type]:
    """The regularizer of this file."""
    return {"near_shared": NearShared}
