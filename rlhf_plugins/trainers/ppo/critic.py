"""The critic: the value of the state before each sampled token, by a head on the policy or on an adapter of its own.

It knows no reward: values are in the unit of the returns that it is shown, whatever that is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rlhf_plugins.arithmetic.moments import Moments
from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.data.branches import BranchBatch
from rlhf_plugins.engine.backbone import active_adapter, adapter_weights, add_adapter
from rlhf_plugins.engine.forward import sequence_states, trunk_of
from rlhf_plugins.engine.log_probs import by_response
from rlhf_plugins.errors import RunError

EQUAL = 1e-6  # returns whose deviation is a smaller share of their mean are equal, up to rounding


class Unit(NamedTuple):
    """The mean and the deviation in which values and returns are without a unit."""

    mean: float
    deviation: float

    def without(self, values: Tensor) -> Tensor:
        """(V - mean) / deviation, same shape."""
        return (values - self.mean) / self.deviation


class ValueHead(nn.Linear):
    """V = mean + deviation v, with mean and deviation of all returns so far and v linear in hidden states (float32).

    So v has no unit (PopArt, van Hasselt et al. 2016). Before the first returns v is 0, mean 0 and deviation 1.
    """

    count: Tensor  # returns so far
    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        for name, start in (("count", 0.0), ("mean", 0.0), ("deviation", 1.0)):
            self.register_buffer(name, torch.tensor(start, dtype=torch.float64))

    @property
    def unit(self) -> Unit:
        """Mean and deviation as numbers."""
        return Unit(float(self.mean), float(self.deviation))

    def forward(self, hidden: Tensor) -> Tensor:
        """(tokens, width) -> V (tokens,)."""
        value: Tensor = self.mean.float() + self.deviation.float() * super().forward(hidden.float()).squeeze(-1)
        return value

    @torch.no_grad()
    def learn(self, returns: Tensor) -> None:
        """Adds returns (n,) to the moments, and rescales the last layer so that V is unchanged.

        The first returns are where V starts from: there v stays 0, and V becomes their mean.
        """
        old, count = self.unit, int(self.count)
        new = Moments(count, old.mean, count * old.deviation**2).including(returns)
        deviation = max(new.deviation, EQUAL * abs(new.mean))
        if deviation == 0:  # all returns so far are 0, which gives no unit
            return
        if count:
            self.weight.mul_(old.deviation / deviation)
            self.bias.mul_(old.deviation / deviation).add_((old.mean - new.mean) / deviation)
        self.count.fill_(new.count)
        self.mean.fill_(new.mean)
        self.deviation.fill_(deviation)


class Critic:
    """A value head that is a submodule of the policy, so that the policy's optimizer trains it.

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
        model.value_head = ValueHead(trunk_of(model).config.get_text_config().hidden_size).to(model.device)
        self._adapter = None if adapter is None else add_adapter(model, adapter)

    @property
    def head(self) -> ValueHead:
        """The value head."""
        head: ValueHead = self._model.value_head
        return head

    @property
    def weights(self) -> list[nn.Parameter]:
        """Those that it trains, but for what it shares with the policy."""
        mark = "value_head." if self._adapter is None else f".{self._adapter}."
        named = self._model.named_parameters()
        return [weights for name, weights in named if mark in name or name.startswith("value_head.")]

    def states(self, hidden: Tensor, batch: BranchBatch) -> Tensor:
        """The policy's hidden states that predict the response tokens -> those that the head reads, (tokens, width)."""
        if self._adapter is None:
            return hidden
        with active_adapter(self._model, self._adapter) as trunk:
            return sequence_states(trunk, batch)[:, :-1][batch.response[:, 1:]]

    def values(self, states: Tensor, batch: BranchBatch) -> Tensor:
        """What the head reads (tokens, width) -> V (B, T), 0 after a response's end."""
        with torch.autocast(states.device.type, enabled=False):  # bfloat16 would round small changes of a value away
            return by_response(self.head(states), batch.response_mask())

    def learn(self, values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
        """Shows the head the returns of a rollout; each (B, T). Returns the values that the head has now.

        They are as they were, but for the first rollout's, which become the mean of its returns.
        """
        started = self.head.count > 0
        self.head.learn(returns[mask])
        return values if started else (self.head.mean.float() + self.head.deviation.float() * values) * mask

    def take_off(self) -> dict[str, Tensor]:
        """Removes the head from the policy; returns its weights, and those of the adapter under PEFT's names."""
        head = self.head
        del self._model.value_head
        adapter = {} if self._adapter is None else adapter_weights(self._model, self._adapter)
        return {**head.state_dict(), **adapter}
