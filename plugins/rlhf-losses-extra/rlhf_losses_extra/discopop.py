"""DiscoPOP: a loss that a language model wrote, a blend of the logistic and the exponential loss."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_plugins import PairLogps, PreferenceLoss, hookimpl


@dataclass(frozen=True)
class DiscoPOP(PreferenceLoss):
    """-(1 - s) log sigmoid(beta h) + s exp(-beta h), s = sigmoid(beta h / tau) (Lu et al. 2024, equation 5)."""

    beta: Annotated[float, Field(gt=0, description="scale of the log-ratios")] = 0.1
    tau: Annotated[float, Field(gt=0, description="how slowly the blend goes to the exponential")] = 0.05

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        h = self.beta * (logps.chosen - logps.ref_chosen - logps.rejected + logps.ref_rejected)
        blend = (h / self.tau).sigmoid()
        return -(1 - blend) * logsigmoid(h) + blend * (-h).exp()


@hookimpl
def register_preference_loss() -> dict[str, type]:
    return {"discopop": DiscoPOP}
