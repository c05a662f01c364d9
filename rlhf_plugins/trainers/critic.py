"""The value of the state before each sampled token: a head on the policy's decoder or on an adapter of its own.

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
    """A linear head that starts at 0 and hangs on the policy, so that its optimizer finds it.

    Args:
        model: the policy, plain or PEFT, already where it computes.
        adapter: what the base wears for the critic alone, in a pass of its own; None reads the policy's hidden states.

    Raises:
        RunError: an adapter is asked for where all weights of the policy are trained.
    """

    def __init__(self, model: Any, adapter: Adapter | None = None) -> None:
        if adapter is not None and not hasattr(model, "peft_config"):
            raise RunError("value: an adapter needs a base that is not trained itself; give the base one, or leave it")
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
        with torch.autocast(hidden.device.type, enabled=False):  # values move by less than bfloat16 can tell
            values = self._model.value_head(hidden.float()).squeeze(-1)
        return by_response(values, batch.response_mask())

    def take_off(self) -> dict[str, Tensor]:
        """The weights of the head, which the policy then no longer has, and of the adapter under PEFT's names."""
        head: nn.Linear = self._model.value_head
        del self._model.value_head
        adapter = {} if self._adapter is None else adapter_weights(self._model, self._adapter)
        return {**head.state_dict(), **adapter}
