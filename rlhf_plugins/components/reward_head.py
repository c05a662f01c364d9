"""Reward heads: what is predicted from a feature vector. They know a width, not where features come from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from rlhf_plugins.hookspecs import hookimpl


class _Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # (batch, width) -> (batch,)
        return super().forward(input).squeeze(-1)


@dataclass(frozen=True)
class Scalar:
    """One reward, linear in the features and without a bias: only differences of rewards are learned.

    Weights start at N(0, 1 / (width + 1)) (Stiennon et al. 2020, appendix).
    """

    def build(self, width: int) -> nn.Module:
        """A module from (batch, width) to (batch,)."""
        head = _Linear(width, 1, bias=False)
        nn.init.normal_(head.weight, std=(width + 1) ** -0.5)
        return head


@hookimpl
def register_reward_head() -> dict[str, type]:
    """The bundled heads."""
    return {"scalar": Scalar}
