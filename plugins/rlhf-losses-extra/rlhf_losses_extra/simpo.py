"""SimPO: the reward is the policy's own log-probability a token, and the better response must lead by a margin."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_plugins import PairLogps, PreferenceLoss, hookimpl


@dataclass(frozen=True)
class SimPO(PreferenceLoss, reads_reference=False):
    """-log sigmoid(beta (logp_w / |y_w| - logp_l / |y_l|) - gamma) (Meng et al. 2024, equation 6); no reference."""

    beta: Annotated[float, Field(gt=0, description="scale of the log-probability a token")] = 2.0
    gamma: Annotated[float, Field(ge=0, description="target margin, in units of beta times it")] = 1.0

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        lead = logps.chosen / logps.chosen_length.clamp(min=1) - logps.rejected / logps.rejected_length.clamp(min=1)
        return -logsigmoid(self.beta * lead - self.gamma)


@hookimpl
def register_preference_loss() -> dict[str, type]:
    return {"simpo": SimPO}
