"""The value of the state before each sampled token: a head on the policy's own decoder. It knows no reward."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rlhf_plugins.models.forward import spread, trunk_of


class Critic:
    """A linear head that starts at 0 and hangs on the policy, so that its optimizer finds it.

    Args:
        model: the policy, plain or PEFT, already where it computes.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        head = nn.Linear(trunk_of(model).config.get_text_config().hidden_size, 1)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        model.value_head = head.to(model.device)

    def values(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Hidden states that predict the response tokens (tokens, width), and their mask (B, T) -> values (B, T)."""
        return spread(self._model.value_head(hidden.float()).squeeze(-1), mask)

    def take_off(self) -> nn.Linear:
        """The head, which the policy then no longer has."""
        head: nn.Linear = self._model.value_head
        del self._model.value_head
        return head
