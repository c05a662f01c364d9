"""The critic: the value of the state before each sampled token, by a head on the policy or on an adapter of its own.

It knows no reward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.data.branches import BranchBatch
from rlhf_plugins.engine.backbone import active_adapter, adapter_weights, add_adapter
from rlhf_plugins.engine.forward import sequence_states, trunk_of
from rlhf_plugins.engine.log_probs import by_response
from rlhf_plugins.errors import RunError


class Critic:
    """A linear head that starts at 0. It is a submodule of the policy, so that the policy's optimizer trains it.

    Args:
        model: the policy, plain or PEFT, on its device.
        adapter: an adapter of the base for the critic only, with a forward pass of its own; None: the head reads the
            policy's hidden states.

    Raises:
        RunError: there is an adapter, and all weights of the policy are trained.
    """

    def __init__(self, model: Any, adapter: Adapter | None = None) -> None:
        if adapter is not None and not hasattr(model, "peft_config"):
            raise RunError(
                "value.adapter needs a base that is not trained itself: give the base an adapter, or leave it out"
            )
        self._model = model
        head = nn.Linear(trunk_of(model).config.get_text_config().hidden_size, 1)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        model.value_head = head.to(model.device)
        self._adapter = None if adapter is None else add_adapter(model, adapter)

    def values(self, hidden: Tensor, batch: BranchBatch) -> Tensor:
        """The policy's hidden states that predict the response tokens (tokens, width) -> values (B, T)."""
        if self._adapter is not None:
            with active_adapter(self._model, self._adapter) as trunk:
                hidden = sequence_states(trunk, batch)[:, :-1][batch.response[:, 1:]]  # (tokens, width)
        with torch.autocast(hidden.device.type, enabled=False):  # bfloat16 would round small changes of a value away
            values = self._model.value_head(hidden.float()).squeeze(-1)
        return by_response(values, batch.response_mask())

    def take_off(self) -> dict[str, Tensor]:
        """Removes the head from the policy; returns its weights, and those of the adapter under PEFT's names."""
        head: nn.Linear = self._model.value_head
        del self._model.value_head
        adapter = {} if self._adapter is None else adapter_weights(self._model, self._adapter)
        return {**head.state_dict(), **adapter}
