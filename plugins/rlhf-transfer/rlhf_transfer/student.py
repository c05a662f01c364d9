"""A student with some of its teacher's layers, or from a folder of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from rlhf_plugins import RunError, Weights

LOADED: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True}  # a pickle can run code
LAYER = re.compile(r"(.*\.(?:layers|h|blocks|block))\.(\d+)\.(.*)")  # of a decoder, as models of transformers name it


def teacher_model(weights: Weights) -> Any:
    """The teacher as one whole model in float32, its adapter merged; a quantized base is loaded unquantized."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    options = {**LOADED, "trust_remote_code": weights.base.trust_remote_code}
    model = AutoModelForCausalLM.from_pretrained(weights.base.path, **options)
    if weights.folder is not None:
        model = PeftModel.from_pretrained(model, str(weights.folder)).merge_and_unload()
    return model.eval()


def of_its_own(name: str) -> Any:
    """A smaller model from a folder or the hub, in float32. Raises RunError where it does not load."""
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(name, **LOADED)
    except (OSError, ValueError) as error:
        raise RunError(f"distill: student: {name} does not load: {str(error).splitlines()[0]}") from error


def with_layers(teacher: Any, count: int) -> Any:
    """A copy with `count` of the teacher's layers, evenly spaced, first and last among them (Sanh et al. 2019, 3).

    Raises:
        RunError: the teacher has no more layers, or its layers are not found.
    """
    config = teacher.config.__class__.from_dict(teacher.config.to_dict())
    own = int(config.num_hidden_layers)
    if count >= own:
        raise RunError(f"distill: layers: the teacher has {own}; give fewer than that")
    kept = evenly(own, count)
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = [config.layer_types[layer] for layer in kept]
    student = type(teacher)._from_config(config, dtype=torch.float32)
    missing, unexpected = student.load_state_dict(_renumbered(teacher.state_dict(), kept), strict=False)
    lost = set(missing) - set(getattr(student, "_tied_weights_keys", None) or ())
    if lost or unexpected:
        raise RunError(f"distill: the layers of a {type(teacher).__name__} are not found; give a folder as `student`")
    student.tie_weights()
    return student


def evenly(own: int, count: int) -> list[int]:
    """`count` of the places 0 to own - 1, evenly spaced; the first and the last where there are two."""
    if count == 1:
        return [0]
    return [round(place * (own - 1) / (count - 1)) for place in range(count)]


def _renumbered(state: Mapping[str, torch.Tensor], kept: list[int]) -> dict[str, torch.Tensor]:
    """The weights of the layers that are kept under their new numbers, and all others."""
    places = {layer: place for place, layer in enumerate(kept)}
    found = {}
    for name, value in state.items():
        match = LAYER.fullmatch(name)
        if match is None:
            found[name] = value
        elif int(match[2]) in places:
            found[f"{match[1]}.{places[int(match[2])]}.{match[3]}"] = value
    return found
