"""One base in memory with several adapters, of which one at a time is active. It knows adapters, not their purpose.

The policy is the adapter that the model came with, the reference is the base alone. A reward model, each member of an
ensemble and a value model add their adapters, so that the weights of the base are held once.
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

from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.engine.cpu.linear_layer import fuse_lora
from rlhf_plugins.engine.forward import trunk_of
from rlhf_plugins.engine.loading import lora_config
from rlhf_plugins.errors import RunError

POLICY = "default"  # PEFT's name of the adapter that a model came with
CHECKPOINTING = "gradient_checkpointing"  # a flag of each layer that recomputes its activations
SAVED, WEIGHTS = "base_model.model.", "adapter_model.safetensors"  # PEFT's prefix of saved weights, and its file


class Backbone:
    """A loaded base that several models share.

    Args:
        model: plain, or with the policy's adapter.
        base: what the model was loaded from.
    """

    def __init__(self, model: Any, base: Base) -> None:
        self.base = base
        self._model = model

    @property
    def trunk(self) -> Any:
        """The decoder or encoder itself, with the active adapter."""
        return trunk_of(self._model)

    def matches(self, base: Base) -> bool:
        """Whether an adapter that was trained on `base` fits: it has the same weights and the same quantization."""
        return (base.path, base.quantization) == (self.base.path, self.base.quantization)

    def load(self, folder: Path) -> str:
        """Adds a saved adapter, frozen, and returns its name.

        Raises:
            RunError: it does not load, or does not fit the base.
        """
        name = _free_name(self._model)
        try:
            with torch.random.fork_rng():  # its weights are initialised at random before they are loaded
                self._load(folder, name)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise RunError(f"{folder}: its adapter does not load: {str(error).strip().splitlines()[0]}") from error
        return name

    def using(self, adapter: str | None) -> AbstractContextManager[Any]:
        """A context in which one adapter, or none, is active; see `active_adapter`."""
        return active_adapter(self._model, adapter)

    def reference(self) -> AbstractContextManager[Any]:
        """A context in which no adapter is active."""
        return self.using(None)

    def save_policy(self, folder: Path) -> None:
        """Writes the policy's adapter and no other."""
        self._model.save_pretrained(folder, selected_adapters=[POLICY])

    def _load(self, folder: Path, name: str) -> None:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        if isinstance(self._model, PeftModel):
            self._model.add_adapter(name, config)
        else:  # a base without a policy
            self._model = get_peft_model(self._model, config, name)
        fuse_lora(self._model)
        self._copy(name, load_file(folder / WEIGHTS))

    def _copy(self, name: str, saved: Mapping[str, Tensor]) -> None:
        """Copies weights in place: PEFT's own loading goes through the state of the whole base, which may round it."""
        prefix = _prefix(self.trunk, self._model.get_base_model())
        own = {key: weights for key, weights in self._model.named_parameters() if f".{name}." in key}
        names = {_model_key(key, prefix, name): weights for key, weights in saved.items()}
        if wrong := sorted(own.keys() ^ names.keys()):
            raise ValueError(f"only one of it and the base has {wrong[0]}")
        with torch.no_grad():
            for key, weights in own.items():
                weights.copy_(names[key])


@contextmanager
def active_adapter(model: Any, adapter: str | None) -> Iterator[Any]:
    """The trunk of a model with one of its adapters active, or none; afterwards the model is as before, also on errors.

    Gradient flags do not change, and training modes are restored. In the block no activation is recomputed (gradient
    checkpointing), since the backward pass would recompute it with the adapter that is active then.
    """
    modules = list(model.modules())
    layers = [(m, m.active_adapter, m.disable_adapters) for m in modules if isinstance(m, BaseTunerLayer)]
    modes = [(module, module.training) for module in modules]
    checkpointing = [module for module in modules if vars(module).get(CHECKPOINTING)]
    try:
        for layer, _, _ in layers:
            _activate(layer, adapter or POLICY, adapter is None)
        for module in checkpointing:
            setattr(module, CHECKPOINTING, False)
        yield trunk_of(model)
    finally:
        for layer, own, disabled in layers:
            _activate(layer, own, disabled)
        for module, training in modes:
            if module.training != training:
                module.training = training
        for module in checkpointing:
            setattr(module, CHECKPOINTING, True)


def add_adapter(model: PeftModel, adapter: Adapter) -> str:
    """Adds an adapter that is to be trained beside the policy's, and returns its name."""
    name = _free_name(model)
    model.add_adapter(name, lora_config(adapter))
    fuse_lora(model).set_requires_grad(name)
    return name


def adapter_weights(model: PeftModel, name: str) -> dict[str, Tensor]:
    """The weights of an adapter, under the names that PEFT saves."""
    own = {key: weights for key, weights in model.named_parameters() if f".{name}." in key}
    return {key.replace(f".{name}.", "."): weights for key, weights in own.items()}


def _free_name(model: Any) -> str:
    taken = getattr(model, "peft_config", {})
    return next(name for name in map("beside_{}".format, count(1)) if name not in taken)


def _prefix(trunk: nn.Module, model: nn.Module) -> str:
    """The prefix of the trunk's modules within the model; an adapter of the trunk alone is saved without it."""
    name = next(name for name, module in model.named_modules() if module is trunk)
    return f"{name}." if name else ""


def _model_key(key: str, prefix: str, name: str) -> str:
    """The name in the model of a saved weight of the trunk's adapter: `...lora_A.NAME.weight`."""
    module, matrix, ending = key.removeprefix(SAVED).rsplit(".", 2)
    return f"{SAVED}{prefix}{module}.{matrix}.{name}.{ending}"


def _activate(layer: BaseTunerLayer, adapters: str | list[str], disabled: bool) -> None:
    """As PEFT's `set_adapter` and `enable_adapters`, which would also change gradient flags."""
    layer._active_adapter = adapters
    layer._disable_adapters = disabled
