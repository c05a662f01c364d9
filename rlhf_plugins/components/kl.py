"""The KL towards the reference: a term in the reward or in the loss, or a hard limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import KL, KLEstimator
from rlhf_plugins.contract.rollout import KLTerm

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Adaptive:
    """A controller that holds the KL near a target: coef <- coef (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon).

    n is the number of responses since the last change, at most the horizon (Ziegler et al. 2019, section 2.2; its
    numbers).
    """

    target: Annotated[float, Field(gt=0, description="nats per response")] = 6.0
    horizon: Annotated[int, Field(gt=0, description="responses in which the strength may change by a fifth")] = 10_000

    def __call__(self, coef: float, kl: float, episodes: int) -> float:
        """The next strength."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return coef * (1 + error * min(episodes / self.horizon, 1.0))


@dataclass(frozen=True)
class _Term(KL, like="estimator", constrains=False):
    """What both share."""

    coef: Annotated[float, Field(ge=0, description="strength at the start")] = 0.05  # Huang et al. 2024
    adapt: Annotated[Adaptive | None, Field(description="how the strength follows the KL; `none` keeps it")] = None
    estimator: KLEstimator = uses("kl_estimator", "k1")

    def __post_init__(self) -> None:
        if self.adapt is not None and self.coef == 0:
            raise ValueError("coef: a strength of 0 cannot adapt, it stays 0")

    def adapted(self, coef: float, kl: float, episodes: int) -> float:
        """The next strength."""
        return coef if self.adapt is None else self.adapt(coef, kl, episodes)


@dataclass(frozen=True)
class InReward(_Term):
    """r_t = -coef KL_t, and the score at the last token (Stiennon et al. 2020, section 3.4): what is too far pays."""

    def __call__(self, log_ratio: Tensor) -> KLTerm:
        """The estimate, taken off the rewards."""
        return KLTerm(off_reward=self.estimator(log_ratio.detach()))


@dataclass(frozen=True)
class InLoss(_Term):
    """loss_t + coef KL_t, with its own gradient (Shao et al. 2024): rewards and values do not know of it."""

    estimator: KLEstimator = uses("kl_estimator", "k3")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.estimator.has_gradient:
            name = self.estimator.recipe_name
            raise ValueError(f"estimator: the gradient of {name} is 0 on average; in a loss use k2 or k3")

    def __call__(self, log_ratio: Tensor) -> KLTerm:
        """The estimate, added to the losses."""
        return KLTerm(on_loss=self.estimator(log_ratio))


@dataclass(frozen=True)
class Constraint(InLoss, constrains=True):
    """`in_loss` with a hard limit: an update is halved until KL(pi || pi_ref) is within it, and undone if it never is.

    The KL is exact over the vocabulary, the mean over the rollout's response tokens. Where those of a new rollout are
    beyond the limit already, the KL may not rise. A backtracking line search as in TRPO (Schulman et al. 2015, appendix
    C), towards the reference. The term in the loss leads back from the limit; `coef: 0` leaves the limit alone.
    """

    limit: Annotated[float, Field(gt=0, description="nats per token")] = 0.1

    def accepts(self, kl: float, before: float) -> bool:
        """Whether the KL is within the limit, or no larger than it was."""
        return kl <= max(self.limit, before)


@hookimpl
def register_kl() -> dict[str, type]:
    """The bundled places."""
    return {"constraint": Constraint, "in_loss": InLoss, "in_reward": InReward}
