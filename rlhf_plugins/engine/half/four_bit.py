"""LoRA layers on 4-bit linear layers of bitsandbytes, under autocast.

W is dequantized once in the forward and once in the backward pass, as bitsandbytes does.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit as Base  # type: ignore[attr-defined]
from peft.tuners import lora
from torch import Tensor

from rlhf_plugins.engine.half.lora import Kind, adapted


def _in_half(base: Any, x: Tensor, half: torch.dtype) -> bool:
    return isinstance(base, Base) and base.compute_dtype == x.dtype == half


def _dequantized(base: Any) -> Tensor:
    if hasattr(base, "matrix"):  # a forecast's layer, which has no numbers
        forecast: Tensor = base.matrix()
        return forecast
    return dequantize_4bit(base.weight.view(-1, 1), base.weight.quant_state).to(base.compute_dtype)


FOUR_BIT = Kind(_in_half, _dequantized)


class Linear4bit(lora.Linear4bit):  # PEFT reads this name, as that of `casts.Linear`
    """PEFT's LoRA layer on a 4-bit layer; one plain active adapter is fused with it."""

    takes_casts = True

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        output = None if args or kwargs else adapted(self, x, FOUR_BIT)
        if output is None:
            own: Tensor = super().forward(x, *args, **kwargs)
            return own
        return output
