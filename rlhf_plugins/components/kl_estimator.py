"""Estimators of KL(pi || pi_ref) from tokens that pi sampled (Schulman 2020, "Approximating KL divergence").

x is log pi - log pi_ref of a sampled token, in nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import KLEstimator

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class K1(KLEstimator, has_gradient=False):
    """x: unbiased, negative for some tokens; its gradient is that of log pi alone, which is 0 on average."""

    def __call__(self, log_ratio: Tensor) -> Tensor:  # (B, T)
        """The log-ratio itself."""
        return log_ratio


@dataclass(frozen=True)
class K2(KLEstimator):
    """x^2 / 2: never negative, biased at a distance; its gradient is on average that of the KL."""

    def __call__(self, log_ratio: Tensor) -> Tensor:  # (B, T)
        """Half the square."""
        return log_ratio**2 / 2


@dataclass(frozen=True)
class K3(KLEstimator):
    """exp(-x) - 1 + x: unbiased and never negative; heavy-tailed where pi_ref is much larger than pi."""

    def __call__(self, log_ratio: Tensor) -> Tensor:  # (B, T)
        """Exact near 0."""
        return (-log_ratio).expm1() + log_ratio


@hookimpl
def register_kl_estimator() -> dict[str, type]:
    """The bundled estimators."""
    return {"k1": K1, "k2": K2, "k3": K3}
