"""EXO on pairs: the reverse divergence between the policy's preference and a smoothed label."""

from dataclasses import dataclass
from math import log, log1p
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_plugins import PairLogps, PreferenceLoss, hookimpl


@dataclass(frozen=True)
class EXOPair(PreferenceLoss):
    """KL(q || p), q = sigmoid(beta h) and p = 1 - e that the chosen one is better (Ji et al. 2024, equation 16)."""

    beta: Annotated[float, Field(gt=0, description="scale of the log-ratios")] = 0.1
    epsilon: Annotated[float, Field(gt=0, lt=0.5, description="e, the label's doubt")] = 0.001

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        h = self.beta * (logps.chosen - logps.ref_chosen - logps.rejected + logps.ref_rejected)
        better = h.sigmoid() * (logsigmoid(h) - log1p(-self.epsilon))
        return better + (-h).sigmoid() * (logsigmoid(-h) - log(self.epsilon))


@hookimpl
def register_preference_loss() -> dict[str, type]:
    return {"exo_pair": EXOPair}
