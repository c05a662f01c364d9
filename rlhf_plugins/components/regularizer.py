"""Terms that are added to the loss of any training: functions of the weights alone, no batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.run_kinds import Regularizer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rlhf_plugins.contract.run import Run


@dataclass(frozen=True)
class L2SP(Regularizer):
    """strength / 2 |theta - theta_0|^2 over the trained weights, theta_0 where they start (Li et al. 2018).

    Weights that start at 0, such as a LoRA's B or a value head, are pulled to 0: for them it is weight decay, as the
    paper has it for new layers.
    """

    strength: Annotated[float, Field(gt=0, description="lambda")] = 0.01

    def build(self, run: Run, model: nn.Module) -> Callable[[], Tensor]:
        """It keeps a copy of the trained weights in float32."""
        trained = [weights for weights in model.parameters() if weights.requires_grad]
        start = [weights.detach().float().clone() for weights in trained]

        def penalty() -> Tensor:
            pairs = zip(trained, start, strict=True)
            squares = [(now.float() - then.to(now.device)).square().sum().cpu() for now, then in pairs]
            return self.strength / 2 * torch.stack(squares).sum()

        return penalty


@hookimpl
def register_regularizer() -> dict[str, type]:
    """The bundled regularizers."""
    return {"l2_sp": L2SP}
