"""Losses of a policy on preference pairs: arithmetic on four log-probabilities, one number a pair."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rlhf_plugins.arithmetic.likelihoods import cross_entropy
from rlhf_plugins.contract.component import one_for_each, uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import PreferenceLoss

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_plugins.contract.records import PairLogps

Beta = Annotated[float, Field(gt=0, description="strength of the KL term towards the reference")]
Weights = list[Annotated[float, Field(ge=0)]]


@dataclass(frozen=True)
class DPO(PreferenceLoss, takes_probabilities=True):
    """-log sigmoid(beta h), h = log pi(y_w)/pi_ref(y_w) - log pi(y_l)/pi_ref(y_l) (Rafailov et al. 2023, eq. 7).

    With a soft label p it is the cross-entropy -p log sigmoid(beta h) - (1 - p) log sigmoid(-beta h).
    """

    beta: Beta = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        """Log-ratios are sums over the response's tokens."""
        h = (logps.chosen - logps.ref_chosen) - (logps.rejected - logps.ref_rejected)
        return cross_entropy(self.beta * h, logps.probability)


@dataclass(frozen=True)
class DPOMargin(PreferenceLoss, needs={"margin"}, takes_probabilities=True):
    """-log sigmoid(beta h - alpha m), h as in `dpo`, m the row's own margin: DPO with an offset (Amini et al. 2024).

    With a soft label p it is -p log sigmoid(beta h - alpha m) - (1 - p) log sigmoid(alpha m - beta h).
    """

    beta: Beta = 0.1
    alpha: Annotated[float, Field(ge=0, description="how much of beta h a margin of 1 asks for; 0 is DPO")] = 1.0

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        """A row without a margin has m = 0."""
        h = (logps.chosen - logps.ref_chosen) - (logps.rejected - logps.ref_rejected)
        return cross_entropy(self.beta * h - self.alpha * logps.margin, logps.probability)


@dataclass(frozen=True)
class IPO(PreferenceLoss, takes_probabilities=True):
    """(h - c)^2, c = 1/(2 beta), h a difference of summed log-ratios (Azar et al. 2023, eq. 17; beta is their tau).

    With a soft label p it is its mean over the label, p (h - c)^2 + (1 - p) (h + c)^2, least at h = (2 p - 1) c.
    """

    beta: Beta = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        """Log-ratios are sums over the response's tokens, as in the paper."""
        h = (logps.chosen - logps.ref_chosen) - (logps.rejected - logps.ref_rejected)
        return _ipo(h, self.beta, logps.probability)


@dataclass(frozen=True)
class IPOPerToken(PreferenceLoss, takes_probabilities=True):
    """IPO with each log-ratio divided by its response's number of tokens, which is TRL's normalisation.

    With it beta bounds the change per token, not per response, so its useful values are larger.
    """

    beta: Beta = 0.1

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        """Log-ratios are means over the response's tokens."""
        chosen = (logps.chosen - logps.ref_chosen) / logps.chosen_length.clamp(min=1)
        rejected = (logps.rejected - logps.ref_rejected) / logps.rejected_length.clamp(min=1)
        return _ipo(chosen - rejected, self.beta, logps.probability)


@dataclass(frozen=True)
class SFT(PreferenceLoss, takes_probabilities=True, holds_constant=True, reads_reference=False):
    """-log pi(y_w) / |y_w|, supervised learning on the better response (Pang et al. 2024, eq. 2, as a term of `sum`).

    With a soft label p it is its mean over the label.
    """

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        """Means over the response's tokens."""
        chosen = -logps.chosen / logps.chosen_length.clamp(min=1)
        rejected = -logps.rejected / logps.rejected_length.clamp(min=1)
        return logps.probability * chosen + (1 - logps.probability) * rejected


@dataclass(frozen=True)
class ReferenceKL(PreferenceLoss, takes_probabilities=True):
    """The mean of (log pi - log pi_ref)^2 / 2 over both responses: as a term of `sum` it holds a policy near.

    Where the reference wrote the responses, this is KL(pi_ref || pi) to second order (k2 of Schulman 2020).
    """

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        """Log-ratios are sums over the response's tokens."""
        chosen, rejected = logps.chosen - logps.ref_chosen, logps.rejected - logps.ref_rejected
        return (chosen**2 + rejected**2) / 4


@dataclass(frozen=True)
class Entropy(PreferenceLoss, takes_probabilities=True, holds_constant=True, reads_entropy=True, reads_reference=False):
    """-(H_w + H_l) / 2, H the policy's entropy per token of a response: an entropy bonus as a term of `sum`.

    The bonus of Mnih et al. 2016 (section 4), at the tokens of the rows' responses, where `online` has the policy's
    own samples.
    """

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        """Means over the response's tokens."""
        assert logps.entropies is not None  # it declares that it reads them
        return -logps.entropies.mean(1)


@dataclass(frozen=True)
class KTO(PreferenceLoss, takes_probabilities=True, uses_batch_mates=True, holds_constant=True, unpaired=True):
    """w_D (1 - sigmoid(beta (h - z))) of a desirable response, w_U (1 - sigmoid(beta (z - h))) of one that is not.

    h = log pi(y)/pi_ref(y), and z is max(0, the batch's mean of log pi(y')/pi_ref(y')) over responses y' to other
    prompts, through which no gradient flows (Ethayarajh et al. 2024, equations 7 and 8).
    """

    beta: Beta = 0.1
    desirable_weight: Annotated[float, Field(ge=0, description="w_D")] = 1.0
    undesirable_weight: Annotated[float, Field(ge=0, description="w_U")] = 1.0

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        """A soft label weighs the two terms."""
        z = (logps.rejected - logps.ref_rejected).detach().mean().clamp(min=0)
        gain = self.beta * (logps.chosen - logps.ref_chosen - z)
        good = self.desirable_weight * (-gain).sigmoid()
        return logps.probability * good + (1 - logps.probability) * self.undesirable_weight * gain.sigmoid()


@dataclass(frozen=True)
class Sum(PreferenceLoss, like="losses"):
    """sum_k w_k L_k of other losses, such as TRL's lists of losses with weights."""

    losses: tuple[PreferenceLoss, ...] = uses("preference_loss", ["dpo", "ipo_per_token"])
    weights: Annotated[Weights, Field(description="w, one for each loss")] = field(default_factory=lambda: [1.0, 1.0])

    def __post_init__(self) -> None:
        if not self.losses:
            raise ValueError("losses: at least one")
        one_for_each(self.weights, self.losses, "losses")
        if remembers := [loss.recipe_name for loss in self.losses if loss.builds]:
            raise ValueError(f"losses: {remembers[0]} remembers earlier pairs, which a part of a sum cannot")
        if len({loss.unpaired for loss in self.losses}) > 1:
            raise ValueError("losses: some are given labelled responses and others pairs, and no row is both")

    def __call__(self, logps: PairLogps) -> Tensor:  # (pairs,)
        """Each part sees the pairs as it would alone."""
        first, *others = (weight * loss(logps) for weight, loss in zip(self.weights, self.losses, strict=True))
        return sum(others, first)


def _ipo(h: Tensor, beta: float, probability: Tensor) -> Tensor:
    target = 1 / (2 * beta)
    return probability * (h - target) ** 2 + (1 - probability) * (h + target) ** 2


@hookimpl
def register_preference_loss() -> dict[str, type]:
    """The bundled preference losses."""
    return {
        "dpo": DPO,
        "dpo_margin": DPOMargin,
        "entropy": Entropy,
        "ipo": IPO,
        "ipo_per_token": IPOPerToken,
        "kto": KTO,
        "reference_kl": ReferenceKL,
        "sft": SFT,
        "sum": Sum,
    }
