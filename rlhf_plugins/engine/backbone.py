"""One base in memory and the adapters that stand on it, each worn for a while. It knows adapters, not what for.

The policy is the adapter that the model came with, the reference the base alone. A reward model, each member of an
ensemble and a value add their adapters beside it, so that the weights of the base are held once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rlhf_plugins.contract.interfaces import Adapter, Base
from rlhf_plugins.engine.cpu.linear_layer import in_one_pass, lora_config
from rlhf_plugins.engine.forward import trunk_of
from rlhf_plugins.errors import RunError

POLICY = "default"  # PEFT's name of the adapter that a model came with
CHECKPOINTING = "gradient_checkpointing"  # a flag of each layer that recomputes its activations
SAVED, WEIGHTS = "base_model.model.", "adapter_model.safetensors"  # how PEFT saves adapters: a prefix, a file


class Backbone:
    """A loaded base that others may stand on.

    Args:
        model: plain, or with the policy's adapter.
        base: what it was loaded from.
    """

    def __init__(self, model: Any, base: Base) -> None:
        self.base = base
        self._model = model

    @property
    def trunk(self) -> Any:
        """The decoder or encoder itself, which computes with the adapter that is worn."""
        return trunk_of(self._model)

    def carries(self, base: Base) -> bool:
        """Whether what was trained on `base` may stand here: it has the same weights, quantized alike."""
        return (base.path, base.quantization) == (self.base.path, self.base.quantization)

    def load(self, folder: Path) -> str:
        """Adds a saved adapter, frozen, and says by which name it is worn.

        Raises:
            RunError: it does not load, or does not fit the base.
        """
        name = _free_name(self._model)
        try:
            with torch.random.fork_rng():  # its weights start at random before they are read
                self._read(folder, name)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise RunError(f"{folder}: its adapter does not load: {str(error).strip().splitlines()[0]}") from error
        return name

    def wearing(self, adapter: str | None) -> AbstractContextManager[Any]:
        """The trunk with one adapter, or with none, as a context; see `wearing`."""
        return wearing(self._model, adapter)

    def reference(self) -> AbstractContextManager[Any]:
        """The base alone, as a context."""
        return self.wearing(None)

    def save_policy(self, folder: Path) -> None:
        """Writes the policy's adapter and no other."""
        self._model.save_pretrained(folder, selected_adapters=[POLICY])

    def _read(self, folder: Path, name: str) -> None:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        if isinstance(self._model, PeftModel):
            self._model.add_adapter(name, config)
        else:  # nobody's policy
            self._model = get_peft_model(self._model, config, name)
        in_one_pass(self._model)
        self._fill(name, load_file(folder / WEIGHTS))

    def _fill(self, name: str, saved: Mapping[str, Tensor]) -> None:
        """Copies weights in place: PEFT's own loading goes through the state of the whole base, which may round it."""
        place = _place(self.trunk, self._model.get_base_model())
        own = {key: weights for key, weights in self._model.named_parameters() if f".{name}." in key}
        names = {_within(key, place, name): weights for key, weights in saved.items()}
        if wrong := sorted(own.keys() ^ names.keys()):
            raise ValueError(f"it and the base disagree about {wrong[0]}")
        with torch.no_grad():
            for key, weights in own.items():
                weights.copy_(names[key])


@contextmanager
def wearing(model: Any, adapter: str | None) -> Iterator[Any]:
    """The trunk of a model with one of its adapters, or with none; afterwards all is as it was, whatever happened.

    Gradient flags stay what they are, training modes come back. Meanwhile no activation is recomputed (gradient
    checkpointing), since the backward pass would do so with whatever adapter is worn then.
    """
    modules = list(model.modules())
    worn = [(m, m.active_adapter, m.disable_adapters) for m in modules if isinstance(m, BaseTunerLayer)]
    modes = [(module, module.training) for module in modules]
    checkpointing = [module for module in modules if vars(module).get(CHECKPOINTING)]
    try:
        for layer, _, _ in worn:
            _wear(layer, adapter or POLICY, adapter is None)
        for module in checkpointing:
            setattr(module, CHECKPOINTING, False)
        yield trunk_of(model)
    finally:
        for layer, own, disabled in worn:
            _wear(layer, own, disabled)
        for module, training in modes:
            if module.training != training:
                module.training = training
        for module in checkpointing:
            setattr(module, CHECKPOINTING, True)


def fresh(model: PeftModel, adapter: Adapter) -> str:
    """Adds an adapter beside the policy's that is to be trained, and says by which name it is worn."""
    name = _free_name(model)
    model.add_adapter(name, lora_config(adapter))
    in_one_pass(model).set_requires_grad(name)
    return name


def weights_of(model: PeftModel, name: str) -> dict[str, Tensor]:
    """The weights of an adapter, as PEFT would save them."""
    own = {key: weights for key, weights in model.named_parameters() if f".{name}." in key}
    return {key.replace(f".{name}.", "."): weights for key, weights in own.items()}


def _free_name(model: Any) -> str:
    taken = getattr(model, "peft_config", {})
    return next(name for name in map("beside_{}".format, count(1)) if name not in taken)


def _place(trunk: nn.Module, model: nn.Module) -> str:
    """The prefix of the trunk's modules within the model: an adapter of the trunk alone is saved without it."""
    name = next(name for name, module in model.named_modules() if module is trunk)
    return f"{name}." if name else ""


def _within(key: str, place: str, name: str) -> str:
    """What a saved weight of an adapter of the trunk is called in the model: `...lora_A.NAME.weight`."""
    module, matrix, ending = key.removeprefix(SAVED).rsplit(".", 2)
    return f"{SAVED}{place}{module}.{matrix}.{name}.{ending}"


def _wear(layer: BaseTunerLayer, adapters: str | list[str], disabled: bool) -> None:
    """What PEFT's `set_adapter` and `enable_adapters` do but for the gradient flags, which they would turn."""
    layer._active_adapter = adapters
    layer._disable_adapters = disabled
