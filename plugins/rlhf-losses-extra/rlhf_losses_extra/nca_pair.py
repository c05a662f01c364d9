"""NCA on pairs: the likelihood of the chosen response may not fall, as it may under DPO."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_plugins import PairLogps, PreferenceLoss, hookimpl


@dataclass(frozen=True)
class NCAPair(PreferenceLoss):
    """-log sigmoid(beta r_w) - (log sigmoid(-beta r_w) + log sigmoid(-beta r_l)) / 2 (Chen et al. 2024, pairs)."""

    beta: Annotated[float, Field(gt=0, description="scale of the log-ratios")] = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        won, lost = (logps.chosen - logps.ref_chosen) * self.beta, (logps.rejected - logps.ref_rejected) * self.beta
        return -logsigmoid(won) - (logsigmoid(-won) + logsigmoid(-lost)) / 2


@hookimpl
def register_preference_loss() -> dict[str, type]:
    return {"nca_pair": NCAPair}
