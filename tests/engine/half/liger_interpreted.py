"""Errors of Liger's own kernels, computed by Triton's interpreter on a CPU, and of transformers' blocks, as JSON.

A script, since Triton is interpreted or not for a whole process. Its interpreter does not compute in bfloat16, lacks
the tanh of CUDA's library, and takes a number that is not an integer for one of Python.
"""

from __future__ import annotations

import json
from typing import Any

import liger_kernel.ops.geglu
import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from transformers import Gemma3TextConfig, LlamaConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3MLP
from transformers.models.llama.modeling_llama import LlamaMLP
from triton.runtime import interpreter

from rlhf_plugins.engine.half import trials
from rlhf_plugins.engine.half.gated import HalfGatedBlock, Kernel, fuse_half_gated, gated, liger
from rlhf_plugins.forecast.kernels import KERNELS
from rlhf_plugins.forecast.meter import Meter

SHAPE = {"hidden_size": 16, "intermediate_size": 40, "num_attention_heads": 2}
KINDS: dict[str, Any] = {
    "swiglu": lambda: LlamaMLP(LlamaConfig(**SHAPE)),
    "geglu": lambda: Gemma3MLP(Gemma3TextConfig(**SHAPE)),
}
EXACT = torch.float64


@triton.jit
def tanh(x: Any) -> Any:
    return 2 * tl.sigmoid(2 * x) - 1


def complete_the_interpreter() -> None:
    own = interpreter._implicit_cvt

    def convert(given: Any) -> Any:
        if not isinstance(given, float):
            return own(given)
        return tl.tensor(interpreter.TensorHandle(np.array([given], np.float32), tl.float32), tl.float32)

    interpreter._implicit_cvt = convert
    liger_kernel.ops.geglu.tanh = tanh


def block(name: str, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    made = KINDS[name]()
    for weights in made.parameters():
        nn.init.normal_(weights, std=0.5)
    return made.half().to(dtype).requires_grad_(False)


def passed(compute: Any, given: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The output and the gradients of what is given."""
    inputs = [each.to(dtype).requires_grad_() for each in given]
    output = compute(*inputs)
    towards = torch.arange(output.numel()).sin().view(output.shape).half().to(dtype)
    return [output.detach(), *torch.autograd.grad(output, inputs, towards)]


def errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [float((one.double() - right).norm() / right.norm()) for one, right in zip(found, exact, strict=True)]


def of_a_block(name: str) -> dict[str, Any]:
    """In float16: output and gradient of the input."""
    x, ours = [torch.randn(3, 5, 16).half()], block(name, torch.float16)
    stack: Any = nn.ModuleList([ours])
    stack.dtype, stack.device = torch.float16, torch.device("cpu")
    assert isinstance(fuse_half_gated(stack)[0], HalfGatedBlock)
    exact = passed(block(name, EXACT), x, EXACT)
    found = [passed(each, x, torch.float16) for each in (ours, block(name, torch.float16))]
    return {"ours": errors(found[0], exact), "theirs": errors(found[1], exact), "trials": trials.results()}


def of_a_kernel(name: str) -> dict[str, Any]:
    """In float32: output and gradients of gate and up."""
    given, act = [torch.randn(3, 5, 40) for _ in range(2)], block(name, torch.float32).act_fn
    exact = passed(lambda gate, up: act(gate) * up, given, EXACT)
    ours = passed(lambda gate, up: gated(gate * 1, up * 1, liger(name)), given, torch.float32)
    theirs = passed(lambda gate, up: act(gate) * up, given, torch.float32)
    return {"ours": errors(ours, exact), "theirs": errors(theirs, exact)}


def allocated_by(kernel: Kernel) -> list[list[int]]:
    """Bytes of new tensors of each way, and the places of its results among what it was given; -1 for a new one."""
    gate, up, grad = (torch.randn(3, 5, 40).half() for _ in range(3))
    found = []
    for compute, given in ((kernel.forward, (gate, up)), (kernel.backward, (gate, up, grad))):
        with Meter(block=1) as meter:
            for each in given:
                meter.count(each)
            before, made = meter.now, compute(*given)
        results = (made,) if isinstance(made, Tensor) else made
        places = [
            next((at for at, one in enumerate(given) if one.data_ptr() == each.data_ptr()), -1) for each in results
        ]
        found.append([sum(meter.peaks[""].values()) - before, *places])
    return found


def of_a_forecast(name: str) -> dict[str, Any]:
    """What its kernels allocate in float16, and what a forecast counts."""
    return {"ours": allocated_by(KERNELS[liger](name)), "theirs": allocated_by(liger(name))}


if __name__ == "__main__":
    complete_the_interpreter()
    parts = {"block": of_a_block, "kernel": of_a_kernel, "forecast": of_a_forecast}
    print(json.dumps({name: {part: compute(name) for part, compute in parts.items()} for name in KINDS}))
