"""transformers' attention by SDPA as it suits a GPU's fused kernels.

Where no mask is given, transformers has torch's SDPA share keys and values among heads. Of torch's kernels for CUDA
FlashAttention and cuDNN's alone can do that, in half precision on Ampere and newer. On Turing, and in float32 on every
card, SDPA falls back to its plain computation without a word, which holds heads x tokens x tokens numbers. Here keys
and values are repeated instead, and the one query of a decoding step is packed, so that the memory-efficient kernel
runs. Under a mask transformers itself repeats them.

A bool mask, as transformers makes it, SDPA turns into one that is added to the products, in each layer, and autograd
keeps each. Here the first layer makes it for all, with rows that begin at multiples of 8 numbers.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention, can_use_flash_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from rlhf_plugins.data.batches.branches import ALIGNED
from rlhf_plugins.engine import ONE_MASK, SHARED_KEYS, kernel
from rlhf_plugins.engine.attention import in_autocast


class Heads(NamedTuple):
    """The properties of a layer's heads on which it depends whether a kernel can compute them."""

    device: torch.device
    dtype: torch.dtype
    width: int
    value_width: int
    drops: bool
    learns: bool


def attend_by_fused_kernels() -> None:
    """Has `attention` take the place of transformers' SDPA, for all models of the process, wherever they are.

    The name of a model's attention stays, since models read it.
    """
    AttentionInterface.register("sdpa", attention)


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' SDPA, with a fused kernel where keys are shared and no mask is given, and one additive mask.

    Args:
        module: the attention layer.
        query: (B, heads, N, width).
        key: (B, key heads, M, width).
        value: (B, key heads, M, value width).
        attention_mask: the attention mask that transformers made, or None.
        options: passed by the layer.

    Returns:
        (B, N, heads, value width), and None in place of the attention weights.
    """
    groups = getattr(module, "num_key_value_groups", 1)
    other = any(options.get(name) is not None for name in ("position_bias", "cache"))
    if groups > 1 and attention_mask is None and not other and SHARED_KEYS.active(query):
        query, key, value = in_autocast(query, key, value)
        learns = torch.is_grad_enabled() and query.requires_grad
        drops = bool(options.get("dropout"))
        heads = Heads(query.device, query.dtype, query.shape[-1], value.shape[-1], drops, learns)
        if not kernel(fused)(heads):
            return _unshared(module, query, key, value, groups, **options)
    if attention_mask is not None and attention_mask.dtype == torch.bool and ONE_MASK.active(query):
        attention_mask = _additive(attention_mask, in_autocast(query)[0].dtype)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What a bool mask (..., M) adds to products, 0 or -inf; made once for a mask, which keeps it."""
    made: Tensor | None = getattr(mask, "additive", None)
    if made is None or made.dtype != dtype:
        wide = torch.zeros(*mask.shape[:-1], -(-mask.shape[-1] // ALIGNED) * ALIGNED, dtype=dtype, device=mask.device)
        made = wide[..., : mask.shape[-1]].masked_fill_(~mask, -torch.inf)
        mask.additive = made  # type: ignore[attr-defined]
    return made


@cache
def fused(heads: Heads) -> bool:
    """Whether torch has a fused kernel in which such heads share keys."""
    shapes = ((2, heads.width), (1, heads.width), (1, heads.value_width))
    query, key, value = (
        torch.empty(1, count, 8, width, device=heads.device, dtype=heads.dtype, requires_grad=heads.learns)
        for count, width in shapes
    )
    given = SDPAParams(query, key, value, None, 0.1 * heads.drops, True, True)
    return can_use_flash_attention(given) or can_use_cudnn_attention(given)


def _unshared(
    module: Any, query: Tensor, key: Tensor, value: Tensor, groups: int, **options: Any
) -> tuple[Tensor, None]:
    single = SimpleNamespace(is_causal=getattr(module, "is_causal", True))  # a layer whose heads share nothing
    if query.shape[2] > 1:
        repeated = repeat_kv(key, groups), repeat_kv(value, groups)
        return sdpa_attention_forward(single, query, *repeated, None, **options)
    rows, heads, _, width = query.shape
    packed = query.reshape(rows, heads // groups, groups, width)
    output, _ = sdpa_attention_forward(single, packed, key, value, None, **{**options, "is_causal": False})
    return output.transpose(1, 2).reshape(rows, 1, heads, -1), None
