"""DPO on log-ratios a token: a longer response has no larger reward for its length alone."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_plugins import PairLogps, PreferenceLoss, hookimpl


@dataclass(frozen=True)
class NormalisedDPO(PreferenceLoss):
    """-log sigmoid(beta (r_w / n_w - r_l / n_l)), length-normalised DPO (Lambert et al. 2024, Tulu 3)."""

    beta: Annotated[float, Field(gt=0, description="scale of the log-ratio a token")] = 5.0

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        won = (logps.chosen - logps.ref_chosen) / logps.chosen_length.clamp(min=1)
        lost = (logps.rejected - logps.ref_rejected) / logps.rejected_length.clamp(min=1)
        return -logsigmoid(self.beta * (won - lost))


@hookimpl
def register_preference_loss() -> dict[str, type]:
    return {"dpo_norm": NormalisedDPO}
