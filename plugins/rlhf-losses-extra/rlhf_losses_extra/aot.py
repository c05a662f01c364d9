"""AOT: the policy's margins should lie above the reference's as distributions, quantile by quantile."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_plugins import PairLogps, PreferenceLoss, hookimpl


@dataclass(frozen=True)
class AOT(PreferenceLoss, uses_batch_mates=True):
    """-log sigmoid(beta (m_(i) - m_ref(i))), m = logp_w - logp_l sorted over the batch (Melnyk et al. 2024, paired)."""

    beta: Annotated[float, Field(gt=0, description="strength of the pull towards the reference")] = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        margins, reference = logps.chosen - logps.rejected, logps.ref_chosen - logps.ref_rejected
        of_same_rank = reference.sort().values[margins.argsort().argsort()]
        return -logsigmoid(self.beta * (margins - of_same_rank))


@hookimpl
def register_preference_loss() -> dict[str, type]:
    return {"aot": AOT}
