"""How the losses of a minibatch's tokens become one number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rlhf_plugins.arithmetic import masked
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import Reduction

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Tokens(Reduction):
    """The mean over all tokens of the minibatch, whichever response they belong to (Huang et al. 2024)."""

    def __call__(self, losses: Tensor, mask: Tensor) -> Tensor:
        """(B, T) and bool (B, T) -> a scalar."""
        return masked.mean(losses, mask)


@dataclass(frozen=True)
class Responses(Reduction):
    """The mean over responses of each one's mean over its tokens, so that all weigh alike (Shao et al. 2024)."""

    def __call__(self, losses: Tensor, mask: Tensor) -> Tensor:
        """(B, T) and bool (B, T) -> a scalar."""
        return masked.mean(losses, mask, dim=1).mean()


@dataclass(frozen=True)
class Constant(Reduction):
    """The mean over responses of sum_t loss_t / length, so that a token weighs alike everywhere (Liu et al. 2025)."""

    length: Annotated[int, Field(gt=0, description="tokens: the longest response that may be sampled")]

    def __call__(self, losses: Tensor, mask: Tensor) -> Tensor:
        """(B, T) and bool (B, T) -> a scalar."""
        return losses.masked_fill(~mask, 0.0).sum(1).mean() / self.length


@hookimpl
def register_reduction() -> dict[str, type]:
    """The bundled reductions."""
    return {"constant": Constant, "responses": Responses, "tokens": Tokens}
