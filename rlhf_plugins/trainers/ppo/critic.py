"""The critic: the value of the state before each sampled token, by a head, an adapter or its own model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftConfig
from safetensors.torch import load_file
from torch import Tensor, nn

from rlhf_plugins.arithmetic.moments import Moments, Unit
from rlhf_plugins.contract import processes
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.data.batches.branches import BranchBatch
from rlhf_plugins.data.digests import refuse_changed
from rlhf_plugins.data.file_names import ADAPTER, VALUE_HEAD, VALUE_NETWORK
from rlhf_plugins.engine.backbone import POLICY, active_adapter, adapter_weights, add_adapter, copy_adapter
from rlhf_plugins.engine.forward import sequence_states, trunk_of
from rlhf_plugins.engine.log_probs import by_response
from rlhf_plugins.engine.weights.base_paths import whole_path
from rlhf_plugins.engine.weights.loading import load_tokenizer, load_trunk, reason, with_adapter
from rlhf_plugins.engine.weights.matching import UNLOADABLE, misfit, shapes
from rlhf_plugins.engine.weights.shards import writing
from rlhf_plugins.errors import RunError
from rlhf_plugins.trainers.ppo.dropout import without_dropout
from rlhf_plugins.trainers.ppo.options import Value

if TYPE_CHECKING:
    from rlhf_plugins.trainers.ppo.from_reward import Beginning

EQUAL = 1e-6  # returns whose deviation is a smaller share of their mean are equal, up to rounding

OWN = "value_head.", "value_network."  # prefixes of the names of its weights in the policy


class ValueHead(nn.Linear):
    """V = mean + deviation v, with mean and deviation of all returns so far and v linear in hidden states (float32).

    So v has no unit (PopArt, van Hasselt et al. 2016). Before the first returns mean is 0 and deviation 1, and v is 0
    unless it begins as a reward.
    """

    begun = False  # whether it begins as a reward

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
    def begin(self, weight: Tensor) -> None:
        """Makes V the reward with this weight (1, width), which the first returns do not change."""
        self.weight.copy_(weight)
        self.begun = True

    @torch.no_grad()
    def learn(self, returns: Tensor) -> None:
        """Adds returns (n,) to the moments, and rescales the last layer so that V is unchanged.

        The first returns are where V starts from, unless it has begun: there v stays 0, and V becomes their mean.
        """
        old, count = self.unit, int(self.count)
        new = Moments(count, old.mean, count * old.deviation**2).including(returns)
        deviation = max(new.deviation, EQUAL * abs(new.mean))
        if deviation == 0:  # all returns so far are 0, which gives no unit
            return
        if count or self.begun:
            self.weight.mul_(old.deviation / deviation)
            self.bias.mul_(old.deviation / deviation).add_((old.mean - new.mean) / deviation)
        self.count.fill_(new.count)
        self.mean.fill_(new.mean)
        self.deviation.fill_(deviation)


class Critic:
    """A value head, and what computes the hidden states that it reads, trained by the policy's optimizer.

    Both are submodules of the policy: `value_head`, and `value_network` where the critic has a model of its own.

    Args:
        model: the policy, plain or PEFT, on its device.
        value: which network the head reads.
        tokenizer: the policy's, whose vocabulary a model of another base must have.
        begun: the adapter of a reward model on the policy, and the weight of its head; None: they are new.

    Raises:
        RunError: the head is to read an adapter on weights that are trained, or beside modules that an adapter trains
            whole, or a base that does not fit.
    """

    def __init__(
        self,
        model: Any,
        value: Value = Value(),  # noqa: B008 (frozen)
        tokenizer: Any = None,
        begun: Beginning | None = None,
    ) -> None:
        self._model, self._adapter, reader = model, None, model
        if value.reads == "adapter":
            if not hasattr(model, "peft_config"):
                raise RunError(
                    "value.adapter needs a base that is not trained itself: give the base an adapter, or write "
                    "value: {network: own}"
                )
            if any(getattr(config, "modules_to_save", None) for config in model.peft_config.values()):
                raise RunError(
                    "value.adapter: PEFT would put it into modules_to_save too, which then cannot be saved: leave them "
                    "out, or write value: {network: own}"
                )
            self._adapter = begun.adapter if begun else add_adapter(model, value.adapter or Adapter())
            without_dropout(model)
        elif value.reads == "own":
            reader = model.value_network = _own_network(model, value, tokenizer)
        model.value_head = ValueHead(trunk_of(reader).config.get_text_config().hidden_size).to(model.device)
        if begun:
            self.head.begin(begun.weight)

    @property
    def head(self) -> ValueHead:
        """The value head."""
        head: ValueHead = self._model.value_head
        return head

    @property
    def network(self) -> Any:
        """The critic's own model; None where it has none."""
        return getattr(self._model, "value_network", None)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The weights that it trains and does not share with the policy; other adapters change no name."""
        own = {name: p for name, p in self._model.named_parameters() if name.startswith(OWN)}
        return {**own, **self._adapter_weights()}

    def states(self, hidden: Tensor, batch: BranchBatch) -> Tensor:
        """The policy's hidden states that predict the response tokens -> those that the head reads, (tokens, width)."""
        if self.network is not None:
            return _before_responses(trunk_of(self.network), batch)
        if self._adapter is None:
            return hidden
        with active_adapter(self._model, self._adapter) as trunk:
            return _before_responses(trunk, batch)

    def values(self, states: Tensor, batch: BranchBatch) -> Tensor:
        """What the head reads (tokens, width) -> V (B, T), 0 after a response's end."""
        with torch.autocast(states.device.type, enabled=False):  # bfloat16 would round small changes of a value away
            return by_response(self.head(states), batch.response_mask())

    def learn(self, values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
        """Shows the head the returns of a rollout; each (B, T). Returns the values that the head has now.

        They are as they were, but for the first rollout's, which become the mean of its returns unless it has begun.
        """
        started = self.head.begun or self.head.count > 0
        with writing(self.head):
            self.head.learn(returns[mask])
        return values if started else (self.head.mean.float() + self.head.deviation.float() * values) * mask

    def take_off(self) -> dict[str, Tensor]:
        """Removes the critic from the policy; returns the head's weights, and its adapter's under PEFT's names."""
        own = self._saved()
        del self._model.value_head
        if self.network is not None:
            del self._model.value_network
        return own

    @torch.no_grad()
    def load(self, stage: Path) -> None:
        """Takes the weights of the critic that another stage left in its folder.

        Raises:
            RunError: they are not there, do not load, or are of another network.
        """
        file, folder = stage / VALUE_HEAD, stage / VALUE_NETWORK
        if not file.is_file():
            raise RunError(
                f"carry: value: {stage} holds no {file.name}, which an online stage that reads values leaves"
            )
        for each in (file, folder):
            refuse_changed(each)
        try:
            saved, own = load_file(file), self._saved()
            if wrong := misfit(shapes(own), shapes(saved)):
                raise ValueError(f"it {wrong}")
            if folder.is_dir() != (self.network is not None):
                raise ValueError(f"the one with {VALUE_NETWORK}/ has a model of its own, the other reads the policy's")
            for name, weights in own.items():
                weights.copy_(saved[name])
            if self.network is not None:
                _copy_network(self.network, folder)
        except UNLOADABLE as error:
            raise RunError(
                f"{file}: its critic does not fit: {reason(error)}; give both stages the same `value`"
            ) from error

    def _saved(self) -> dict[str, Tensor]:
        return {**self.head.state_dict(keep_vars=processes.shards()), **self._adapter_weights()}

    def _adapter_weights(self) -> dict[str, Any]:
        """The weights of its adapter, under PEFT's names; none where it has no adapter on the policy."""
        return {} if self._adapter is None else adapter_weights(self._model, self._adapter)


def without_critic(generation: Any) -> None:
    """Has TRL's VLLMGeneration leave the critic out of the weights that it hands over: vLLM knows the policy alone."""
    every = generation._iter_named_params
    generation._iter_named_params = lambda: (each for each in every() if not each[0].startswith(OWN))


def _before_responses(trunk: Any, batch: BranchBatch) -> Tensor:
    """A trunk's hidden states that predict the response tokens, (tokens, width)."""
    return sequence_states(trunk, batch)[:, :-1][batch.response[:, 1:]]


def _copy_network(network: Any, folder: Path) -> None:
    """Gives a critic's model the saved weights. Raises ValueError or RuntimeError where they are of another one."""
    adapted = hasattr(network, "peft_config")
    if adapted != (folder / ADAPTER).exists():
        raise ValueError("one of the two trains an adapter, the other all weights")
    if not adapted:
        network.load_state_dict(load_trunk(Base(str(folder))).state_dict())
        return
    saved, own = (each.base_model_name_or_path for each in (_config(folder), network.peft_config[POLICY]))
    if whole_path(saved) != whole_path(own):
        raise ValueError(f"its model is an adapter on {saved}, not on {own}")
    copy_adapter(network, POLICY, folder)


def _config(folder: Path) -> PeftConfig:
    return PeftConfig.from_pretrained(str(folder))


def _own_network(model: Any, value: Value, tokenizer: Any) -> Any:
    """The critic's own model without dropout, on its base, with or without an adapter."""
    base = Base(value.base or model.config._name_or_path, adapter=value.adapter)
    if value.base and tokenizer is not None and load_tokenizer(base).get_vocab() != tokenizer.get_vocab():
        raise RunError(
            f"value.base: {value.base} has another vocabulary than the policy, whose tokens the critic reads"
        )
    with torch.random.fork_rng():  # the policy trains as it would without
        network = with_adapter(load_trunk(base), value.adapter, "FEATURE_EXTRACTION")
    without_dropout(network)
    return network.to(model.device)
