"""LoRA layers of PEFT without a cast that autocast undoes.

PEFT converts an adapter's input to float32, the precision of the adapter's weights, and under autocast the adapter's
product converts it back: two passes over the input, and two over its gradient, for the same bits.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn

from rlhf_plugins.engine import CASTS, unseen

IN_HALF = "adapter_in_half"  # of a LoRA layer: its weights, those that are cast, and the tensors that those became


class Linear(lora.Linear):  # PEFT reads this name, to find out where another adapter can be added
    """PEFT's LoRA layer; a plain adapter gets its input as it is, where autocast is going to convert it."""

    def _cast_input_dtype(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        if x.dtype != dtype and self._is_cast_back(x) and agree(x.device.type, x.dtype, dtype):
            return x
        cast: Tensor = super()._cast_input_dtype(x, dtype)
        return cast

    def _is_cast_back(self, x: Tensor) -> bool:
        device = x.device.type
        if not (CASTS.active(x) and torch.is_autocast_enabled(device) and x.dtype == torch.get_autocast_dtype(device)):
            return False
        names = [name for name in self.active_adapters if name in self.lora_A]
        drops = any(self.training and not isinstance(self.lora_dropout[name], nn.Identity) for name in names)
        return not drops and not any(name in self.lora_variant for name in names)


def plain_adapter(layer: Any) -> str | None:
    """The name of the one active plain adapter on a frozen layer, or None."""
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return None
    name: str = layer.active_adapters[0]
    if name not in layer.lora_A or name in layer.lora_variant:
        return None
    base, plain = layer.base_layer, isinstance(layer.lora_dropout[name], nn.Identity)
    trained = base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad)
    return name if plain and layer.lora_B[name].bias is None and not trained else None


def in_half(layer: Any, down: Tensor, up: Tensor, half: torch.dtype) -> tuple[Tensor, Tensor]:
    """A and B of a LoRA layer in half precision: those that its decoder layer made in this call, or new ones."""
    made = vars(layer).get(IN_HALF)
    if made is not None and made[0] is down and made[1] is up and made[2].dtype == half:
        return made[2], made[3]
    return down.to(half), up.to(half)


@cache
def agree(device: str, half: torch.dtype, weights: torch.dtype) -> bool:
    """Whether a product under autocast, and its gradients, have the same bits with and without the cast on a device."""
    with unseen(), torch.autocast(device, half):
        x = torch.linspace(-2, 3, 8 * 64, device=device).view(8, 64).to(half).requires_grad_()
        weight = torch.linspace(-1, 1, 16 * 64, device=device).view(16, 64).to(weights).requires_grad_()
        found: list[Any] = []
        for given in (x.to(weights), x):
            output = nn.functional.linear(given, weight)
            found.append((output, *torch.autograd.grad(output.float().square().sum(), (x, weight))))
        return all(torch.equal(*both) for both in zip(*found, strict=True))
