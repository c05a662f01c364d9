"""What is done to rewards before a policy learns from them.

A recipe lists them in the order in which they act; s is the reward of one response.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field

from rlhf_plugins.arithmetic.moments import Moments
from rlhf_plugins.arithmetic.objectives import by_potential
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import Shaping
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_plugins.contract.rollout import ScoredResponses


@dataclass(frozen=True)
class MissingEOS(Shaping):
    """s - penalty where the response did not end by itself (Huang et al. 2024, "EOS trick")."""

    penalty: Annotated[float, Field(ge=0, description="in the reward's unit; deviations, after `running`")] = 1.0

    def __call__(self, scored: ScoredResponses) -> Tensor:  # (B,)
        """Ignores lengths."""
        return scored.scores - self.penalty * (~scored.ended)


@dataclass(frozen=True)
class LengthPenalty(Shaping):
    """s - rate max(0, length - free)."""

    rate: Annotated[float, Field(ge=0, description="per token, in the reward's unit; deviations, after `running`")] = (
        0.01
    )
    free: Annotated[int, Field(ge=0, description="tokens that cost nothing")] = 0

    def __call__(self, scored: ScoredResponses) -> Tensor:  # (B,)
        """Ignores how a response ended."""
        return scored.scores - self.rate * (scored.lengths - self.free).clamp(min=0)


@dataclass(frozen=True)
class Clip(Shaping):
    """s held within -limit and limit (Engstrom et al. 2020)."""

    limit: Annotated[float, Field(gt=0, description="in the reward's unit; deviations, after `running`")] = 10.0

    def __call__(self, scored: ScoredResponses) -> Tensor:  # (B,)
        """Ignores all but the rewards."""
        return scored.scores.clamp(-self.limit, self.limit)


@dataclass(frozen=True)
class Quantile(Shaping, ranks_rollout=True):
    """Phi^-1((rank - 1/2) / B) with rank the place of s among the rollout's B rewards, ties at their mean place.

    Rank-based inverse normal scores (van der Waerden 1952): whatever the reward's scale and tails, what counts is the
    order.
    """

    def __call__(self, scored: ScoredResponses) -> Tensor:  # (B,)
        """Ignores all but the rewards."""
        scores = scored.scores
        below = (scores < scores.unsqueeze(1)).sum(1)  # (B,)
        equal = (scores == scores.unsqueeze(1)).sum(1)
        return torch.special.ndtri((below + equal / 2).double() / len(scores)).to(scores.dtype)


@dataclass(frozen=True)
class Potential(Shaping):
    """The numbers of the tokens become a potential: what they tell early is paid early, and the optimum stays.

    r_t = discount Phi(s_{t+1}) - Phi(s_t), and s more at the last token: Phi is the sum of the tokens' numbers so far,
    0 at the end (Ng et al. 1999, theorem 1). The discounted return is that of s, paid at the end. `discount` is the
    estimator's own (`gamma`), below 1: at 1 the numbers of tokens that sum to s are such a shaping already.
    """

    discount: Annotated[float, Field(gt=0, lt=1, description="gamma, as of the advantage")]

    def __call__(self, scored: ScoredResponses) -> Tensor:  # (B, T)
        """Raises RunError where the reward gives no number for each token."""
        if scored.tokens is None:
            raise RunError("shaping potential: needs a reward that gives each token a number, such as `prefixes`")
        mask = torch.arange(scored.tokens.shape[1], device=scored.tokens.device) < scored.lengths.unsqueeze(1)
        return by_potential(scored.scores, scored.tokens.cumsum(1), mask, self.discount)


@dataclass(frozen=True)
class Running(Shaping):
    """(s - mean) / deviation with both of every reward that the training has seen, this rollout's included.

    Engstrom et al. 2020 on why rewards are normalised so.
    """

    def build(self) -> Callable[[ScoredResponses], Tensor]:
        """What remembers the training's rewards."""
        return _Running()


class _Running:
    def __init__(self) -> None:
        self._seen = Moments()

    def __call__(self, scored: ScoredResponses) -> Tensor:  # (B,)
        self._seen = self._seen.including(scored.scores)
        return (scored.scores - self._seen.mean) / (self._seen.deviation + 1e-8)

    def state_dict(self) -> dict[str, float]:
        return vars(self._seen).copy()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seen = Moments(**state)


@hookimpl
def register_shaping() -> dict[str, type]:
    """The bundled shapings."""
    return {
        "clip": Clip,
        "length_penalty": LengthPenalty,
        "missing_eos": MissingEOS,
        "potential": Potential,
        "quantile": Quantile,
        "running": Running,
    }
