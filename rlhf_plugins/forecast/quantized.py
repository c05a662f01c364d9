"""Quantized linear layers that allocate what those of bitsandbytes do on a GPU, and compute nothing."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.autograd._functions import MatmulLtState
from bitsandbytes.nn import Linear4bit, Linear8bitLt  # type: ignore[attr-defined]
from torch import Tensor, nn

from rlhf_plugins.engine.precision import INT8, NF4, known_quantization
from rlhf_plugins.forecast.meter import allocating

DEQUANTIZED = "dequantized weights"
BLOCK, BLOCKS = 64, 256  # weights with one scale, scales with one scale of their own


class FourBit(Linear4bit):
    """NF4 with double quantization; its matrix is there only within a product."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.compute_dtype, self.quant_state = linear.weight.dtype, None
        count = linear.weight.numel()
        self.weight = _packed(torch.empty(count // 2, 1, dtype=torch.uint8, device="meta"))
        vars(self.weight).update(compress_statistics=True, quant_type=NF4)
        self.register_buffer("absmax", torch.empty(count // BLOCK, dtype=torch.uint8, device="meta"))
        self.register_buffer("nested", torch.empty(-(-count // (BLOCK * BLOCKS)), device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        result: Tensor = _Product.apply(x.to(self.compute_dtype), (self.out_features, self.in_features), self.bias)
        return result.to(x.dtype)

    def matrix(self) -> Tensor:
        """Its matrix, dequantized, (outputs, inputs)."""
        return _dequantized(self.compute_dtype, self.weight.device, (self.out_features, self.in_features))


class EightBit(Linear8bitLt):
    """LLM.int8(): inputs are quantized for the forward product, weights dequantized for the backward one."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.index, self.state = None, MatmulLtState()
        self.state.has_fp16_weights, self.state.threshold = False, 6.0
        self.weight = _packed(torch.empty(linear.weight.shape, dtype=torch.int8, device="meta"))
        self.register_buffer("scales", torch.empty(linear.out_features, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        result: Tensor = _Int8Product.apply(x, self.weight, self.bias)
        return result


def quantized(model: Any, how: str) -> Any:
    """The model on `meta`, with every linear layer but its head as one of these. Raises RunError for another name."""
    make = {NF4: FourBit, INT8: EightBit}[known_quantization(how)]
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not head:
                setattr(parent, name, make(child))
    setattr(model, "is_loaded_in_4bit" if how == NF4 else "is_loaded_in_8bit", True)
    return model


def _packed(data: Tensor) -> Any:
    return nn.Parameter(data, requires_grad=False)


class _Product(torch.autograd.Function):
    """x W^T + b, as MatMul4Bit: W is dequantized in the forward and in the backward pass, x is not kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, int], bias: Tensor | None) -> Tensor:
        ctx.shape = shape
        bias = None if bias is None else bias.to(x.dtype)
        return nn.functional.linear(x, _dequantized(x.dtype, x.device, shape), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """(..., outputs) -> (..., inputs)."""
        return grads[0] @ _dequantized(grads[0].dtype, grads[0].device, ctx.shape), None, None


def _dequantized(dtype: torch.dtype, device: torch.device, shape: tuple[int, int]) -> Tensor:
    with allocating(DEQUANTIZED):
        scales = torch.empty(shape[0] * shape[1] // BLOCK, device=device)
        matrix = torch.empty(shape, dtype=dtype, device=device)
    del scales
    return matrix


class _Int8Product(torch.autograd.Function):
    """Takes the place of MatMul8bitLt with a threshold, which keeps x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        rows = x.reshape(-1, x.shape[-1])
        half = rows.to(torch.float16)
        codes = torch.empty_like(half, dtype=torch.int8)
        del half
        whole = torch.empty(len(rows), weight.shape[0], dtype=torch.int32, device=x.device)
        result = torch.empty_like(whole, dtype=x.dtype)
        del whole, codes
        if bias is not None:
            result = result + bias
        return result.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """(..., outputs) -> (..., inputs)."""
        x, weight = ctx.saved_tensors
        with allocating(DEQUANTIZED):
            matrix = torch.empty_like(weight, dtype=x.dtype)
        return grads[0].to(x.dtype) @ matrix, None, None
