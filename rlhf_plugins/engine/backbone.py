"""One base in memory with several adapters, of which one at a time is active.

A trained policy is the adapter that the model came with, the reference is the base alone. Further policies, a reward
model, each member of an ensemble and a value model add their adapters, so that the weights of the base are held once.
`shared` finds a base that is in memory already.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf_plugins.contract.run import UNTRIED, Adapter, Base
from rlhf_plugins.data.digests import refuse_changed
from rlhf_plugins.engine.forward import inner_of, trunk_of
from rlhf_plugins.engine.layers import CHECKPOINTING, RECOMPUTING, checkpointing
from rlhf_plugins.engine.weights.base_paths import same_base, whole_path
from rlhf_plugins.engine.weights.loading import fuse_adapters, load_causal, lora_config, reason
from rlhf_plugins.engine.weights.matching import ADAPTER_WEIGHTS, UNLOADABLE, misfit, refuse_pickled, shapes
from rlhf_plugins.errors import RunError

POLICY = "default"  # PEFT's name of the adapter that a model came with
SAVED = "base_model.model."  # PEFT's prefix of saved weights
BASE = "base_layer"  # PEFT's name of a layer below its adapters
OF_EMBEDDINGS = (".lora_embedding_A", ".lora_embedding_B")  # PEFT's names of weights that are no modules
MAGNITUDE = ".lora_magnitude_vector"  # ends the name of a saved vector of DoRA


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
    def model(self) -> Any:
        """The model as PEFT has it; plain as long as it has no adapter."""
        return self._model

    @property
    def inner(self) -> Any:
        """The model of transformers in which the adapters are."""
        return inner_of(self._model)

    @property
    def trunk(self) -> Any:
        """The decoder or encoder itself, with the active adapter."""
        return trunk_of(self._model)

    def matches(self, base: Base) -> bool:
        """Whether an adapter that was trained on `base` fits."""
        return same_base(self.base, base)

    def load(self, folder: Path, trainable: bool = False) -> str:
        """Adds a saved adapter and returns its name; one that does not load leaves nothing on the base.

        Raises:
            RunError: it does not load, or does not fit the base.
        """
        refuse_changed(folder)
        name = _free_name(self._model)
        try:
            refuse_pickled(folder)
            with torch.random.fork_rng():  # its weights are initialised at random before they are loaded
                config = PeftConfig.from_pretrained(str(folder))
                config.inference_mode = not trainable
                self._add(config, name)
                copy_adapter(self._model, name, folder)
        except UNLOADABLE as error:
            if name in getattr(self._model, "peft_config", {}):
                self.remove(name)
            raise RunError(f"{folder}: its adapter does not load: {reason(error)}") from error
        return name

    def add(self, adapter: Adapter, trainable: bool = True) -> str:
        """Adds an adapter that changes nothing yet, and returns its name."""
        name, config = _free_name(self._model), lora_config(adapter, "CAUSAL_LM")
        config.inference_mode = not trainable
        self._add(config, name)
        return name

    def remove(self, adapter: str) -> None:
        """Takes an adapter off the base; a base without any is plain again."""
        with _same_flags(self._model), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Adapter .* was active which is now deleted")
            self._model.delete_adapter(adapter)
        if not self._model.peft_config:
            self._model = self._model.unload()
        else:  # PEFT takes the name from its first layer, which may have none of those that are left
            self._model.active_adapter = self._model.base_model.active_adapter = next(iter(self._model.peft_config))

    def layers(self, adapter: str) -> dict[str, Any]:
        """The layers with this adapter, by their name in the model of transformers."""
        tuned = {name: module for name, module in self.inner.named_modules() if isinstance(module, BaseTunerLayer)}
        return {name: layer for name, layer in tuned.items() if adapter in getattr(layer, "r", ())}

    def using(self, adapter: str | None) -> AbstractContextManager[Any]:
        """A context in which one adapter, or none, is active; see `active_adapter`."""
        return active_adapter(self._model, adapter)

    def reference(self) -> AbstractContextManager[Any]:
        """A context in which no adapter is active."""
        return self.using(None)

    def save_policy(self, folder: Path, **saving: Any) -> None:
        """Writes the policy's adapter and no other, with these options of `save_pretrained`."""
        self._model.save_pretrained(folder, selected_adapters=[POLICY], **saving)

    def save(self, adapter: str, folder: Path) -> None:
        """Writes an adapter as PEFT does, in the folder itself."""
        config = self._model.peft_config[adapter]
        weights = {
            key: value.detach().cpu().contiguous() for key, value in adapter_weights(self._model, adapter).items()
        }
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / ADAPTER_WEIGHTS)
        config.save_pretrained(str(folder))

    def _add(self, config: PeftConfig, name: str) -> None:
        """Adds an adapter; which weights of the others are trained, and which adapter is active, does not change."""
        before = {id(layer): (layer.active_adapter, layer.disable_adapters) for layer in _tuned(self._model)}
        if isinstance(self._model, PeftModel):
            with _same_flags(self._model):
                self._model.add_adapter(name, config)
        else:  # a base without a policy
            self._model = get_peft_model(self._model, config, name)
        has_policy = POLICY in self._model.peft_config
        for layer in _tuned(self._model):
            new = (POLICY, False) if has_policy else (layer.active_adapter, True)
            _activate(layer, *before.get(id(layer), new))
        fuse_adapters(self._model)
        for weights in own_weights(self._model, name).values():
            weights.requires_grad_(not config.inference_mode)


# ---- bases in memory ---------------------------------------------------------------------------------------
_Key = tuple[Any, ...]
_IN_MEMORY: WeakValueDictionary[_Key, Backbone] = WeakValueDictionary()


def shared(base: Base) -> Backbone:
    """The base in memory, loaded if it is not there; it is freed when nobody holds it any more."""
    if (found := _IN_MEMORY.get(_key(base))) is None:
        found = _IN_MEMORY[_key(base)] = Backbone(load_causal(base).eval().requires_grad_(False), base)
    return found


def _key(base: Base) -> _Key:
    """What makes two bases the same in memory: also the state of the files, which a later run may overwrite."""
    files = [file for file in Path(base.path).glob("*") if file.is_file()]
    state = tuple(sorted((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files))
    return whole_path(base.path), base.quantization, base.trust_remote_code, base.adapter is None, state


@contextmanager
def active_adapter(model: Any, adapter: str | None) -> Iterator[Any]:
    """The trunk of a model with one of its adapters active, or none; afterwards the model is as before, also on errors.

    Gradient flags do not change, and training modes are restored. The backward pass recomputes activations of the block
    (gradient checkpointing) with the adapter of the block; where it cannot, as in torch's reentrant way, none is.
    """
    layers = [(layer, layer.active_adapter, layer.disable_adapters) for layer in _tuned(model)]
    modes = [(module, module.training) for module in model.modules()]
    recomputed: list[tuple[nn.Module, Any]] = [(m, vars(m).get(RECOMPUTING)) for m in checkpointing(model)]
    try:
        for layer, _, _ in layers:
            _activate(layer, adapter or POLICY, adapter is None)
        for module, function in recomputed:
            if _takes_context(function) and torch.is_grad_enabled():
                setattr(module, RECOMPUTING, partial(function, context_fn=partial(_contexts, module, adapter)))
            else:
                setattr(module, CHECKPOINTING, False)
        yield trunk_of(model)
    finally:
        for layer, own, disabled in layers:
            _activate(layer, own, disabled)
        for module, training in modes:
            if module.training != training:
                module.training = training
        for module, function in recomputed:
            setattr(module, CHECKPOINTING, True)
            if function is not None:
                setattr(module, RECOMPUTING, function)


def _takes_context(function: Any) -> bool:
    """Whether a function that recomputes activations takes the context in which it does so."""
    given = function.keywords if isinstance(function, partial) else {}
    return given.get("use_reentrant") is False and "context_fn" not in given


def _contexts(module: nn.Module, adapter: str | None) -> tuple[AbstractContextManager[None], _Again]:
    """The contexts in which a module computes and recomputes: the second activates the adapter of the first."""
    return nullcontext(), _Again(module, adapter)


class _Again(AbstractContextManager[None]):
    """A context in which one adapter of a module is active, which is entered at each recomputation."""

    def __init__(self, module: nn.Module, adapter: str | None) -> None:
        self._layers, self._adapter = _tuned(module), adapter
        self._before: list[tuple[Any, bool]] = []

    def __enter__(self) -> None:
        self._before = [(layer.active_adapter, layer.disable_adapters) for layer in self._layers]
        for layer in self._layers:
            _activate(layer, self._adapter or POLICY, self._adapter is None)

    def __exit__(self, *_: Any) -> None:
        for layer, before in zip(self._layers, self._before, strict=True):
            _activate(layer, *before)


def add_adapter(model: PeftModel, adapter: Adapter) -> str:
    """Adds an adapter that is to be trained beside the policy's, and returns its name.

    Raises:
        RunError: it is of DoRA, and the base is quantized.
    """
    if adapter.use_dora and getattr(inner_of(model).config, "quantization_config", None) is not None:
        raise RunError(f"use_dora: {UNTRIED}")
    name = _free_name(model)
    model.add_adapter(name, lora_config(adapter))
    fuse_adapters(model).set_requires_grad(name)
    return name


def own_weights(model: PeftModel, name: str) -> dict[str, nn.Parameter]:
    """The weights of an adapter, under their names in the model."""
    return {key: weights for key, weights in model.named_parameters() if f".{name}." in f"{key}."}


def matrices(layer: Any, name: str) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r) of a layer's adapter; of embeddings, `in` is the number of tokens."""
    if name in layer.lora_embedding_A:
        return layer.lora_embedding_A[name], layer.lora_embedding_B[name]
    return layer.lora_A[name].weight, layer.lora_B[name].weight


def adapter_weights(model: PeftModel, name: str) -> dict[str, Tensor]:
    """The weights of an adapter, under the names that PEFT saves."""
    own = own_weights(model, name)
    return {f"{key}.".replace(f".{name}.", ".").removesuffix("."): weights for key, weights in own.items()}


def copy_adapter(model: PeftModel, name: str, folder: Path) -> None:
    """Copies the weights of a saved adapter into one of the model: PEFT's own loading may round those of the base.

    A trunk without a language-model head takes those of its own modules. The base's own embeddings, which PEFT saves
    beside an adapter on them, are left out.

    Raises:
        ValueError: the two are adapters of other modules, or of another rank.
    """
    trunk, inner = trunk_of(model), model.get_base_model()
    prefix, saved = _prefix(trunk, inner), load_file(folder / ADAPTER_WEIGHTS)
    own = own_weights(model, name)
    names = dict[str, Tensor]()
    for key in (key for key in saved if f".{BASE}." not in key):
        whole = _model_key(key, "", name)  # of a model with its head, whose layers are not all in the trunk
        names[whole if whole in own else _model_key(key, prefix, name)] = saved[key]
    if trunk is inner and not own.keys() & names.keys():  # saved with the head, whose module holds the trunk
        within = {SAVED + key.removeprefix(SAVED).partition(".")[2]: weights for key, weights in names.items()}
        names = {key: weights for key, weights in within.items() if key in own}
    if wrong := misfit(shapes(own), shapes(names)):
        raise ValueError(wrong)
    with torch.no_grad():
        for key, weights in own.items():
            weights.copy_(names[key])


@contextmanager
def _same_flags(model: nn.Module) -> Iterator[None]:
    """After the block, the weights that the model had are trained as before it; PEFT changes that."""
    flags = [(weights, weights.requires_grad) for weights in model.parameters()]
    yield
    for weights, trained in flags:
        weights.requires_grad_(trained)


def _free_name(model: Any) -> str:
    taken = getattr(model, "peft_config", {})
    return next(name for name in map("beside_{}".format, count(1)) if name not in taken)


def _prefix(trunk: nn.Module, model: nn.Module) -> str:
    """The prefix of the trunk's modules within the model; an adapter of the trunk alone is saved without it."""
    name = next(name for name, module in model.named_modules() if module is trunk)
    return f"{name}." if name else ""


def _model_key(key: str, prefix: str, name: str) -> str:
    """The name in the model of a saved weight of an adapter, of the trunk alone or not: `...lora_A.NAME.weight`."""
    inside = key.removeprefix(SAVED).removeprefix(prefix)
    if inside.endswith(OF_EMBEDDINGS):
        return f"{SAVED}{prefix}{inside}.{name}"
    if inside.endswith(MAGNITUDE):
        return f"{SAVED}{prefix}{inside}.{name}.weight"
    module, matrix, ending = ([""] * 3 + inside.rsplit(".", 2))[-3:]
    if not module:  # no weight of a layer
        return key
    return f"{SAVED}{prefix}{module}.{matrix}.{name}.{ending}"


def _tuned(model: nn.Module) -> list[Any]:
    """The layers that have adapters, and the modules that an adapter trains whole (`modules_to_save`)."""
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]


def _activate(layer: Any, adapters: str | list[str], disabled: bool) -> None:
    """Does what PEFT's `set_adapter` and `enable_adapters` do, but changes no gradient flags."""
    layer._active_adapter = adapters
    layer._disable_adapters = disabled
