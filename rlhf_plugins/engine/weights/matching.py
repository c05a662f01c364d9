"""Whether saved weights are those of a model, name by name and shape by shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rlhf_plugins.data.file_names import ADAPTER

Shapes = Mapping[str, tuple[int, ...]]
ADAPTER_WEIGHTS = "adapter_model.safetensors"
SETS = ("target_modules", "exclude_modules")  # in the configuration of an adapter
PICKLED = "adapter_model.bin"
SHOWN = 3
UNLOADABLE: tuple[type[Exception], ...] = (  # what PEFT raises on a damaged adapter
    *(OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError, ImportError),
    SafetensorError,
)


def shapes(weights: Mapping[str, Tensor]) -> Shapes:
    """The shape of each tensor."""
    return {name: tuple(value.shape) for name, value in weights.items()}


def misfit(needed: Shapes, saved: Shapes) -> str:
    """What is wrong with saved weights, in words with their names; empty where they fit."""
    other = [
        f"{name} {saved[name]} for {needed[name]}" for name in needed.keys() & saved if saved[name] != needed[name]
    ]
    found = {
        "lacks": sorted(needed.keys() - saved.keys()),
        "has no use for": sorted(saved.keys() - needed.keys()),
        "has other sizes": sorted(other),
    }
    return "; ".join(f"{what} {_some(names)}" for what, names in found.items() if names)


def refuse_pickled(folder: Path) -> None:
    """Raises ValueError where a folder holds an adapter's weights only as a pickle, which could run code."""
    if not (folder / ADAPTER_WEIGHTS).exists() and (folder / PICKLED).exists():
        raise ValueError(f"{PICKLED} is a pickle, which can run code; save it as {ADAPTER_WEIGHTS}")


def refuse_misfit(loaded: PeftModel, folder: Path) -> None:
    """Raises ValueError where the file of the adapter that was loaded is not the adapter of this model."""
    with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
        saved: Any = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    needed = shapes(get_peft_model_state_dict(loaded, save_embedding_layers=False))
    whole = loaded.state_dict()  # PEFT saves embeddings beside an adapter that trained them
    if wrong := misfit(needed, {name: shape for name, shape in saved.items() if name in needed or name not in whole}):
        raise ValueError(wrong)


def in_order(folder: Path) -> None:
    """Sorts the modules in the configurations of adapters below a folder, which PEFT writes in the order of a set."""
    for file in folder.rglob(ADAPTER):
        config = json.loads(file.read_text(encoding="utf-8"))
        for name, value in config.items():
            if name in SETS and isinstance(value, list):
                config[name] = sorted(value)
        file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
