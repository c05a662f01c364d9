"""What a piece of work costs: floating-point operations, tokens, calls of a reward.

FLOPs are counted from the shapes of each forward pass, 2 for a multiply-accumulate:

    linear layers   2 in out per token, with a LoRA layer 2 (in out + r (in + out)); the head where it is applied; of
                    experts those that a token goes through
    attention       4 heads head_dim per pair of a query and a key, in each layer; causal masks save nothing
    backward        of a linear layer once its forward for its input's gradient, and once for that of its weights, where
                    each is needed; of attention twice its forward; with gradient checkpointing one more forward pass

Norms, activations, embeddings, routers, the optimizer, the layers of state space models and models under
`torch.compile` are not counted. `counting` opens a counter; counters that are open at once, such as those of a stage
and of the stage around it, all count.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from rlhf_plugins.engine.layers import SLIDING, attention_types, checkpointing, decoder_layers

if TYPE_CHECKING:
    from rlhf_plugins.contract.run import Cost


class Counter:
    """Adds up what is done while it is open."""

    def __init__(self) -> None:
        self.flops = 0.0
        self.generated_tokens = self.reward_calls = 0
        self._trained: int | Tensor = 0  # on the device that it was counted on
        self._began = time.perf_counter()
        self._seconds: float | None = None

    @property
    def seconds(self) -> float:
        """Since it was opened, until it was closed."""
        return time.perf_counter() - self._began if self._seconds is None else self._seconds

    def add(
        self, flops: float = 0.0, trained_tokens: int | Tensor = 0, generated_tokens: int = 0, reward_calls: int = 0
    ) -> None:
        """Counts more."""
        self.flops += flops
        self._trained = self._trained + trained_tokens
        self.generated_tokens += generated_tokens
        self.reward_calls += reward_calls

    def state_dict(self) -> dict[str, float]:
        """What it counted so far."""
        named = {name: getattr(self, name) for name in ("flops", "generated_tokens", "reward_calls")}
        return {**named, "trained_tokens": int(self._trained), "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Counts on from what another counted."""
        missing = {name: value - self.state_dict()[name] for name, value in state.items()}
        self.put_forward(missing.pop("seconds"))
        self.add(**missing)

    def put_forward(self, seconds: float) -> None:
        """Has its clock show so many more."""
        self._began -= seconds

    def close(self) -> None:
        """Stops its clock."""
        self._seconds = self.seconds

    def cost(self, peak_bytes: int | None = None) -> Cost:
        """The cost so far."""
        from rlhf_plugins.contract.run import Cost

        trained = int(self._trained)
        return Cost(self.seconds, self.flops, trained, self.generated_tokens, self.reward_calls, peak_bytes)


_OPEN: ContextVar[tuple[Counter, ...]] = ContextVar("open_counters", default=())
_SCORING: ContextVar[bool] = ContextVar("scoring", default=False)


@contextmanager
def counting() -> Iterator[Counter]:
    """Opens a counter for the block."""
    counter = Counter()
    token = _OPEN.set((*_OPEN.get(), counter))
    try:
        yield counter
    finally:
        counter.close()
        _OPEN.reset(token)


@contextmanager
def uncounted() -> Iterator[None]:
    """What the block does is not counted."""
    token = _OPEN.set(())
    try:
        yield
    finally:
        _OPEN.reset(token)


def add(**counts: Any) -> None:
    """Counts more in every open counter; arguments as of `Counter.add`."""
    for counter in _OPEN.get():
        counter.add(**counts)


def go_on(counter: Counter, state: Mapping[str, Any]) -> None:
    """Has a counter count on from a state, and all that are open count what it misses."""
    missing = {name: value - counter.state_dict()[name] for name, value in state.items()}
    seconds = missing.pop("seconds")
    for each in {counter, *_OPEN.get()}:
        each.put_forward(seconds)
        each.add(**missing)


@contextmanager
def scoring(responses: int) -> Iterator[None]:
    """Counts the responses that a reward scores in the block, once where it calls other rewards for its own."""
    if not _SCORING.get():
        add(reward_calls=responses)
    token = _SCORING.set(True)
    try:
        yield
    finally:
        _SCORING.reset(token)


# ---- models ------------------------------------------------------------------------------------------------
def counted(model: Any) -> Any:
    """The model, whose forward passes are counted from now on wherever a counter is open: of its trunk and head."""
    trunk = model.base_model if hasattr(model, "base_model") else model
    trunk.register_forward_pre_hook(_count_trunk, with_kwargs=True)
    if (head := model.get_output_embeddings()) is not None:
        head.register_forward_hook(_count_head)
    return model


def count_head(hidden: Tensor, weight: Tensor) -> None:
    """Counts logits (tokens, vocabulary) that are computed from hidden states without a call of the head."""
    if _OPEN.get():
        forward = 2.0 * len(hidden) * weight.numel()
        learns = torch.is_grad_enabled() and hidden.requires_grad
        trained = torch.is_grad_enabled() and weight.requires_grad
        add(flops=forward * (1 + learns + trained))


def count_skipped(trunk: Any, block: nn.Module, tokens: int, learns: bool) -> None:
    """Takes off the linear layers of a trunk's block at tokens for which it is not computed, forward and backward.

    Args:
        trunk: whose forward pass was counted whole.
        block: one of its modules.
        tokens: for which the block is not computed.
        learns: whether the input of the block has a gradient.
    """
    if _OPEN.get():
        found = _Linear(_experts(trunk), learns)
        trained = torch.is_grad_enabled() and any(weights.requires_grad for weights in block.parameters())
        found.walk(block, learns or trained)
        add(flops=-2.0 * tokens * (found.forward + found.backward))


def _count_head(head: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """A forward hook of a language-model head."""
    if _is_counting() and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
        hidden = inputs[0].flatten(0, -2)
        count_head(hidden, head.weight)


def _count_trunk(trunk: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
    """A forward pre-hook of a trunk."""
    if not _is_counting():
        return
    ids = next((x for x in (options.get("input_ids"), options.get("inputs_embeds"), *inputs) if x is not None), None)
    if not isinstance(ids, Tensor):
        return
    learns = torch.is_grad_enabled() and any(weights.requires_grad for weights in trunk.parameters())
    linear, mask, layers = _linear(trunk, learns), options.get("attention_mask"), _Attention.of(trunk.config)
    rows, width = ids.shape[:2]
    cache = options.get("past_key_values")
    past = int(cache.get_seq_length()) if cache is not None else 0
    attention = layers.macs(rows, width, past, getattr(mask, "packed", None))
    again = learns and trunk.training and bool(checkpointing(trunk))
    passes = linear.forward * (1 + again) + linear.backward
    share = linear.trained_layers / layers.count if learns else 0.0
    flops = 2.0 * (rows * width * passes + attention * (1 + again + 2 * share))
    add(flops=flops, trained_tokens=_tokens(mask, rows * width) if learns else 0)


HOOKS = (_count_trunk, _count_head)  # that `counted` leaves on a model


def _is_counting() -> bool:
    return not torch.compiler.is_compiling() and bool(_OPEN.get())


def _tokens(mask: Any, every: int) -> int | Tensor:
    """Tokens without padding, so far as a mask tells them apart."""
    return mask.sum() if isinstance(mask, Tensor) and mask.dim() == 2 else every


@dataclass(frozen=True)
class _Attention:
    """The attention of a model: its width over all heads, and the sliding window of each layer, None without one."""

    width: int
    windows: tuple[int | None, ...]

    @classmethod
    def of(cls, config: Any) -> _Attention:
        config = config.get_text_config()
        heads = getattr(config, "num_attention_heads", 0)
        width = getattr(config, "head_dim", None) or config.hidden_size // max(1, heads)
        window = getattr(config, "sliding_window", None)
        kinds = (kind for kind in attention_types(config) if "attention" in kind)
        windows = tuple(window if kind == SLIDING else None for kind in kinds)
        return cls(heads * width, windows)

    @property
    def count(self) -> int:
        return max(1, len(self.windows))

    def macs(self, rows: int, width: int, past: int, packed: Any) -> float:
        """Multiply-accumulates of all layers' queries with keys, and weights with values."""
        if packed is not None:
            return 2.0 * self.width * len(self.windows) * _packed_pairs(packed)
        keys = past + width
        pairs = sum(rows * width * (keys if window is None else min(keys, window)) for window in self.windows)
        return 2.0 * self.width * pairs


def _packed_pairs(packed: Any) -> int:
    """Pairs of queries and keys of a packed row, which is computed span by span."""
    pairs = 0
    for run in packed.runs:
        spans, groups = run.spans, (run.at.stop - run.at.start) // run.spans.size
        blocks = [(spans.first, spans.first), (spans.rest, spans.prompt), *((own, own) for own in spans.branches)]
        pairs += groups * sum((q.stop - q.start) * (k.stop - k.start) for q, k in blocks)
    return pairs


class _Linear:
    """Multiply-accumulates of linear layers per token, and the layers of the decoder that have a backward pass."""

    def __init__(self, experts: int = 1, learns: bool = False) -> None:
        self.forward = self.backward = 0
        self.trained_layers = 0
        self._experts = experts  # that a token goes through
        self._learns = learns  # whether a weight so far is trained, so that what follows passes gradients on

    def walk(self, module: Any, learns: bool, layers: Any = None) -> _Linear:
        """Counts a module and its children, in order."""
        if isinstance(module, BaseTunerLayer):
            self._tuned(module, learns)
        elif _is_linear(module):
            self._layer(_size(module), learns, module.weight.requires_grad)
        else:
            for weights in module.parameters(recurse=False):
                shape = getattr(weights, "ds_shape", weights.shape)  # of what ZeRO-3 cut into partitions, the whole's
                if len(shape) == 3:  # (experts, ., .)
                    self._layer(shape[1] * shape[2] * self._experts, learns, weights.requires_grad)
                self._learns |= learns and weights.requires_grad
            for child in module.children():
                self.walk(child, learns, layers)
                self.trained_layers += self._learns and module is layers
        return self

    def _layer(self, size: int, learns: bool, trained: bool) -> None:
        self.forward += size
        if learns:
            self.backward += size * (self._learns + trained)
            self._learns |= trained

    def _tuned(self, module: Any, learns: bool) -> None:
        base, before = module.get_base_layer(), self._learns
        if _is_linear(base):
            self._layer(_size(base), learns, base.weight.requires_grad)
        active = () if module.disable_adapters or module.merged else module.active_adapters
        for name in active:
            down, up, table = (getattr(module, f"lora_{which}", {}) for which in ("A", "B", "embedding_A"))
            self._learns |= learns and name in table and table[name].requires_grad
            if name in down:
                trained = down[name].weight.requires_grad
                self._learns = before
                self._layer(_size(down[name]), learns, trained)
                self._layer(_size(up[name]), learns, trained)


def _is_linear(module: Any) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"  # GPT-2's


def _size(layer: Any) -> int:
    if isinstance(layer, nn.Linear):
        return layer.in_features * layer.out_features  # quantized weights are packed
    return int(getattr(layer.weight, "ds_numel", layer.weight.numel()))


def _linear(trunk: Any, learns: bool) -> _Linear:
    """The linear layers of a trunk, counted once for each state of its adapters."""
    known: dict[Any, _Linear] = vars(trunk).setdefault("_rlhf_linear", {})
    tuned = next((module for module in trunk.modules() if isinstance(module, BaseTunerLayer)), None)
    adapters = tuned and (tuple(tuned.active_adapters), tuned.disable_adapters, tuple(tuned.merged_adapters))
    trained = sum(weights.requires_grad for weights in trunk.parameters()) if learns else 0
    if (key := (adapters, trained)) not in known:
        known[key] = _Linear(_experts(trunk)).walk(trunk, learns, decoder_layers(trunk))
    return known[key]


def _experts(trunk: Any) -> int:
    """The experts of a layer that a token goes through."""
    return getattr(trunk.config.get_text_config(), "num_experts_per_tok", None) or 1
