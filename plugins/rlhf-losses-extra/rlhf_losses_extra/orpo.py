"""ORPO: imitates the better response, and prefers it by the ratio of odds, in one loss without a reference."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_plugins import PairLogps, PreferenceLoss, hookimpl


@dataclass(frozen=True)
class ORPO(PreferenceLoss, reads_reference=False):
    """-l_w - lam log sigmoid(o_w - o_l), o = l - log(1 - e^l), l = logp / |y| (Hong et al. 2024, equations 6 and 7)."""

    lam: Annotated[float, Field(ge=0, description="weight of the preference beside imitation")] = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        chosen = logps.chosen / logps.chosen_length.clamp(min=1)
        rejected = logps.rejected / logps.rejected_length.clamp(min=1)
        odds_w, odds_l = (x - (-x.clamp(max=-1e-6).expm1()).log() for x in (chosen, rejected))  # finite at p = 1
        return -chosen - self.lam * logsigmoid(odds_w - odds_l)


@hookimpl
def register_preference_loss() -> dict[str, type]:
    return {"orpo": ORPO}
