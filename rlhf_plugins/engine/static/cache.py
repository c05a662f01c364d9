"""Keys and values of a fixed number of rows, in memory that stays where it is.

A row has a slot. Its tokens begin at place 0 of the slot and need no padding, so that rows of different lengths are
beside one another, and a slot whose row has ended takes another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from rlhf_plugins.engine.attention import KNOWN_OPTIONS

IGNORED = KNOWN_OPTIONS - {"softcap"}  # by attention of one token, whose mask knows the window


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, (slots, key heads, capacity, width) each.

    Args:
        like: keys and values of the layer, (., key heads, ., width) each.
        dtype: the dtype of both.
        size: slots, and tokens of each.
        places: (slots,) where each slot's next token is written; it is read at each update.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, like: Sequence[Tensor], dtype: torch.dtype, size: tuple[int, int], places: Tensor) -> None:
        super().__init__()
        slots, capacity = size
        self.keys, self.values = (
            torch.zeros(slots, one.shape[1], capacity, one.shape[3], dtype=dtype, device=one.device) for one in like
        )
        self._slots, self._places = torch.arange(slots, device=places.device), places
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Writes one token of each slot, (slots, key heads, 1, width); returns the memory of all."""
        for memory, new in ((self.keys, key_states), (self.values, value_states)):
            memory[self._slots, :, self._places] = new.squeeze(2).to(memory.dtype)
        return self.keys, self.values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the memory is there."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a mask covers, from the first."""
        return self.get_max_length(), 0

    def get_seq_length(self) -> int:
        """Tokens before the query's, as the cost of a step counts them: attention computes the whole capacity."""
        return self.get_max_length() - 1

    def get_max_length(self) -> int:
        """Tokens of a slot."""
        return self.keys.shape[2]


class PromptLayer(CacheLayerMixin):
    """Keeps nothing of the prompts that a pass computes: their keys and values go into slots, from place 0."""

    def __init__(self, layer: SlotLayer, slots: Tensor, rows: Tensor) -> None:
        super().__init__()
        self._memories, self._slots, self._rows = (layer.keys, layer.values), slots, rows

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Writes all tokens, (rows, key heads, tokens, width), and returns them: there are none before."""
        for memory, new in zip(self._memories, (key_states, value_states), strict=True):
            memory[self._slots, :, : new.shape[2]] = new[self._rows].to(memory.dtype)
        return key_states, value_states

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: there is no memory."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a mask covers, from the first."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Tokens before the prompts."""
        return 0

    def get_max_length(self) -> int:
        """There is no limit."""
        return -1


class ShapeCache(DynamicCache):
    """Keys and values of a few tokens, for their shapes; `dtype` is that in which a model computes values.

    Under autocast keys are rotated in float32, to which this cache converts values and from which SDPA converts both.
    """

    dtype: torch.dtype

    def update(self, key_states: Tensor, value_states: Tensor, *given: Any, **named: Any) -> tuple[Tensor, Tensor]:
        """Adds keys and values of a layer."""
        self.dtype = value_states.dtype
        return super().update(key_states, value_states, *given, **named)


class SlotCache(Cache):
    """The layers of a model, of whose slots each step writes one token.

    Args:
        like: a cache of the model with some tokens in it, for the shapes.
        slots: rows at once.
        capacity: tokens of a slot.
        places: (slots,) where each slot's next token is written.
        windows: of each type of attention that the layers have, in tokens; None is none. All keep the whole capacity.
    """

    layers: list[Any]

    def __init__(
        self, like: ShapeCache, slots: int, capacity: int, places: Tensor, windows: Mapping[str, int | None]
    ) -> None:
        size = slots, capacity
        super().__init__([SlotLayer((one.keys, one.values), like.dtype, size, places) for one in like.layers])
        self._order = torch.arange(capacity, device=places.device)
        self._places, self._windows = places, windows

    def mask(self) -> Tensor | dict[str, Tensor]:
        """Which keys each slot's token attends to, its own and those before: 0 or -inf, (slots, 1, 1, capacity).

        Where layers are of several types of attention, there is a mask for each. A decoder passes them on to its
        attention unchanged, which then is `one_token_attention`.
        """
        masks = {kind: self._mask(window) for kind, window in self._windows.items()}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _mask(self, window: int | None) -> Tensor:
        behind = self._places.view(-1, 1, 1, 1) - self._order
        hidden = behind < 0 if window is None else (behind < 0) | (behind >= window)
        mask = torch.zeros_like(hidden, dtype=self.layers[0].keys.dtype).masked_fill(hidden, -torch.inf)
        mask.attend, mask.window = one_token_attention, window  # type: ignore[attr-defined]
        return mask

    def of_prompts(self, slots: Tensor, rows: Tensor) -> Cache:
        """A cache for one pass over whole prompts, whose rows go into slots; `slots` and `rows` are (n,) each."""
        return Cache([PromptLayer(layer, slots, rows) for layer in self.layers])

    def copy(self, slots: Tensor, others: Tensor, tokens: int) -> None:
        """Copies the first tokens of other slots into slots; `slots` and `others` are (n,) each."""
        for own in self.layers:
            for memory in (own.keys, own.values):
                memory[slots, :, :tokens] = memory[others, :, :tokens]


def one_token_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None = None, **options: Any
) -> Tensor:
    """Attention of one token of each slot; heads that share keys are queries of one head, so that no key is repeated.

    Args:
        query: (slots, heads, 1, width).
        key: (slots, key heads, capacity, width).
        value: (slots, key heads, capacity, value width).
        mask: (slots, 1, 1, capacity), made by `SlotCache`.
        scaling: the scaling of the products; None is one by the root of the width.
        options: the options that the layer passes besides.

    Returns:
        (slots, 1, heads, value width).

    Raises:
        ValueError: an option is not supported, or the layer's sliding window is not that of the mask.
    """
    unknown = {name for name, option in options.items() if name not in IGNORED and not _is_nothing(option)}
    if unknown:
        raise ValueError(f"its attention has the options {', '.join(sorted(unknown))}")
    if (asked := options.get("sliding_window")) not in (None, mask.window):  # type: ignore[attr-defined]
        raise ValueError(f"a layer with a sliding window of {asked} tokens was given another mask")
    slots, heads, _, width = query.shape
    shared = query.reshape(slots, key.shape[1], heads // key.shape[1], width).to(key.dtype)
    output = scaled_dot_product_attention(shared, key, value, mask, scale=scaling)
    return output.reshape(slots, 1, heads, -1)


def _is_nothing(option: Any) -> bool:
    return option is None or (isinstance(option, int | float) and not option)
