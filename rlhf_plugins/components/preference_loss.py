"""Losses of a policy on preference pairs: arithmetic on four log-probabilities, one number a pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from torch.nn.functional import logsigmoid

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import PreferenceLoss

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_plugins.contract.records import PairLogps

Beta = Annotated[float, Field(gt=0, description="strength of the pull towards the reference")]


@dataclass(frozen=True)
class DPO(PreferenceLoss):
    """-log sigmoid(beta h), h = log pi(y_w)/pi_ref(y_w) - log pi(y_l)/pi_ref(y_l) (Rafailov et al. 2023, eq. 7)."""

    beta: Beta = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        """Log-ratios are sums over the response's tokens."""
        h = (logps.chosen - logps.ref_chosen) - (logps.rejected - logps.ref_rejected)
        return -logsigmoid(self.beta * h)


@dataclass(frozen=True)
class IPO(PreferenceLoss):
    """(h - 1/(2 beta))^2 with h a difference of summed log-ratios (Azar et al. 2023, eq. 17; beta is their tau)."""

    beta: Beta = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        """Log-ratios are sums over the response's tokens, as in the paper."""
        h = (logps.chosen - logps.ref_chosen) - (logps.rejected - logps.ref_rejected)
        return (h - 1 / (2 * self.beta)) ** 2


@dataclass(frozen=True)
class IPOPerToken(PreferenceLoss):
    """IPO with each log-ratio divided by its response's number of tokens, which is TRL's normalisation.

    With it beta bounds the change per token, not per response, so its useful values are larger.
    """

    beta: Beta = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        """Log-ratios are means over the response's tokens."""
        chosen = (logps.chosen - logps.ref_chosen) / logps.chosen_length.clamp(min=1)
        rejected = (logps.rejected - logps.ref_rejected) / logps.rejected_length.clamp(min=1)
        return (chosen - rejected - 1 / (2 * self.beta)) ** 2


@hookimpl
def register_preference_loss() -> dict[str, type]:
    """The bundled preference losses."""
    return {"dpo": DPO, "ipo": IPO, "ipo_per_token": IPOPerToken}
