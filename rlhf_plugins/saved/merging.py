"""Merges a LoRA adapter into its base on the CPU, a layer at a time, and measures what rounding changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.file_names import ADAPTER
from rlhf_plugins.engine.weights.end_tokens import with_ends
from rlhf_plugins.engine.weights.starting import untie
from rlhf_plugins.errors import RunError

UNMERGED = (
    "use_dora",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "lora_bias",
    "alora_invocation_tokens",
)


@dataclass(frozen=True)
class Rounding:
    """How the logits of a written model differ from those of the model before it was merged or cast."""

    difference: float  # the largest one
    largest: float  # logit before, by size
    agreed: int  # positions with the same likeliest token
    positions: int

    def __str__(self) -> str:
        logits = f"logits differ by {self.difference:.2g} at most, the largest is {self.largest:.3g}"
        return f"{logits}; the likeliest token is the same at {self.agreed} of {self.positions} positions"


@dataclass(frozen=True)
class Whole:
    """A whole model, ready to be written."""

    model: Any
    rounding: Rounding
    untied: bool = False  # the output layer was tied to the embeddings, and only one of them was trained


def whole_policy(folder: Path, base: Base, dtype: torch.dtype | None, rows: Sequence[Sequence[int]]) -> Whole:
    """A saved policy as one model on the CPU: W + scaling * B A of each layer, summed in float32 and rounded once.

    Args:
        folder: the folder of an adapter, or of a whole model.
        base: what the adapter was trained on; it is loaded unquantized, in its own precision.
        dtype: the dtype of the weights; None keeps that of the base, or of the whole model.
        rows: token ids on which the logits before and after are compared.

    Raises:
        RunError: it does not load, the adapter is no plain LoRA, or the precision cannot hold a weight.
    """
    if not (folder / ADAPTER).exists():
        model = _loaded(str(folder), base.trust_remote_code)
        before = _logits(model, rows)
        _cast(model, dtype)
        return Whole(model, _rounding(before, _logits(model, rows)))
    adapted = _adapted(_loaded(base.path, base.trust_remote_code), folder)
    before, untied = _logits(adapted, rows), untie(adapted)
    for name, layer in _layers(adapted):
        _merge(name, layer, dtype)
    model = with_ends(adapted.unload(), folder)
    _cast(model, dtype)
    return Whole(model, _rounding(before, _logits(model, rows)), untied)


def _loaded(path: str, trust_remote_code: bool) -> Any:
    """The model in the precision in which it is stored. Raises RunError."""
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        if getattr(config, "quantization_config", None) is not None:
            raise RunError(f"base {path}: is stored quantized, and a merged weight has to be rounded to what it holds")
        options = {"dtype": "auto", "trust_remote_code": trust_remote_code}
        return AutoModelForCausalLM.from_pretrained(path, **options).eval().requires_grad_(False)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise RunError(f"base {path}: does not load: {str(error).strip().splitlines()[0]}") from error


def _adapted(model: Any, folder: Path) -> Any:
    """The model with the adapter in float32. Raises RunError unless it is a plain LoRA that fits."""
    try:
        adapted = PeftModel.from_pretrained(model, str(folder), torch_device="cpu").eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise RunError(f"{folder}: its adapter does not load: {str(error).strip().splitlines()[0]}") from error
    config = adapted.peft_config["default"]
    used = [name for name in UNMERGED if getattr(config, name, None)] or (["bias"] if config.bias != "none" else [])
    if used or not any(True for _ in _layers(adapted)):
        what = f"uses {', '.join(used)}" if used else f"is {config.peft_type.value}"
        raise RunError(f"{folder}: its adapter {what}, and only a plain LoRA is merged: leave --merge out")
    return adapted


def _layers(adapted: Any) -> Iterator[tuple[str, Any]]:
    yield from ((name, layer) for name, layer in adapted.named_modules() if isinstance(layer, LoraLayer))


def _merge(name: str, layer: Any, dtype: torch.dtype | None) -> None:
    plain, delta = layer.get_base_layer(), layer.get_delta_weight("default").float()
    whole = (plain.weight.float() + delta).to(dtype or plain.weight.dtype)
    _check(name, whole)
    plain.weight = nn.Parameter(whole, requires_grad=False)


def _cast(model: Any, dtype: torch.dtype | None) -> None:
    """Rounds the weights; buffers, such as the frequencies of positions, stay as they are."""
    if dtype is None:
        return
    for name, weights in model.named_parameters():
        weights.data = weights.data.to(dtype)
        _check(name, weights)
    model.config.dtype = dtype


def _check(name: str, weights: Tensor) -> None:
    if not bool(weights.isfinite().all()):
        raise RunError(
            f"{name}: {str(weights.dtype).removeprefix('torch.')} cannot hold its weights: give another --dtype"
        )


@torch.no_grad()
def _logits(model: Any, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    return [model(input_ids=torch.tensor([list(row)])).logits[0].float() for row in rows]


def _rounding(before: Sequence[Tensor], after: Sequence[Tensor]) -> Rounding:
    pairs = list(zip(before, after, strict=True))
    return Rounding(
        max(float((a - b).abs().max()) for a, b in pairs),
        max(float(b.abs().max()) for b in before),
        sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in pairs),
        sum(len(b) for b in before),
    )
