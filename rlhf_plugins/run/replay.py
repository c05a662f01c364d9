"""Saves a failed call of a component to two files and repeats it; JSON and safetensors, no pickle.

fault.json          which component, with its options, what was wrong, and how its inputs are put together
fault.safetensors   their tensors and arrays and, of a component that holds some, its weights
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf_plugins.contract import guards, records, rollout, rows
from rlhf_plugins.contract.run import Cost, Step
from rlhf_plugins.data.files import read_json
from rlhf_plugins.errors import ComponentError, RlhfError, RunError
from rlhf_plugins.recipe import provenance
from rlhf_plugins.recipe.assemble import component, spec
from rlhf_plugins.registry.discovery import Plugin

if TYPE_CHECKING:
    from rlhf_plugins.contract.run import Run
    from rlhf_plugins.registry.registry import Registry

FAULT, TENSORS = "fault.json", "fault.safetensors"
WEIGHTS = "weights."
RECORDS: dict[str, Any] = {
    name: cls
    for module in (records, rollout, rows)
    for name, cls in vars(module).items()
    if dataclasses.is_dataclass(cls)
} | {"Step": Step, "Cost": Cost}


class Replayed(NamedTuple):
    """The error of the first time and of now; `again` is None where the call succeeds."""

    then: str
    again: ComponentError | None


def save(error: ComponentError, folder: Path, message: str, files: list[str], registry: Registry) -> Path:
    """Writes the call that failed into a folder, and returns the path of its JSON.

    Args:
        error: what a guard raised.
        folder: where to.
        message: the error message.
        files: plugins that the recipe names by their files.
        registry: knows the component.

    Raises:
        PluginError: no plugin registered the component, so that nobody could make it again.
    """
    call, tensors = error.call, dict[str, Tensor]()
    culprit = guards.maker(call.component)
    inputs = [_packed(value, str(place), tensors) for place, value in enumerate(call.inputs)]
    if isinstance(call.component, nn.Module):
        tensors |= {WEIGHTS + name: _plain(value) for name, value in call.component.state_dict().items()}
    found = registry.find(type(culprit))
    written = {
        "message": message,
        "kind": found.kind,
        "component": spec(culprit, registry),
        "plugin": vars(found.plugin),
        "files": files,
        "building": call.building,
        "built_of": _built_of(call.component),
        "training": getattr(call.component, "training", False),
        "inputs": inputs,
    }
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / TENSORS)
    (folder / FAULT).write_text(json.dumps(written, indent=1) + "\n")
    return folder / FAULT


def repeatable(file: Path) -> bool:
    """Whether all inputs of a saved call could be saved, and its component is built of numbers or of a run alone."""
    fault, _ = _read(file)
    given = fault["built_of"] or []
    return (None not in given or given == [None]) and not any(map(_left_out, fault["inputs"]))


def named_files(file: Path) -> list[Path]:
    """The files with code that `replay` would run: those that the fault names, and those of the recipe of its run."""
    from rlhf_plugins.data.file_names import RECIPE
    from rlhf_plugins.recipe import check

    fault, _ = _read(file)
    files, recipe = fault.get("files"), file.absolute().parent.parent / RECIPE
    own = [Path(path) for path in files if isinstance(path, str)] if isinstance(files, list) else []
    return list(dict.fromkeys([*own, *(check.named_files(recipe) if recipe.is_file() else ())]))


def replay(file: Path, registry: Registry) -> Replayed:
    """Repeats a saved call with the component that is installed now.

    Raises:
        PluginError: its plugin is missing.
        RunError: the files cannot be read.
    """
    fault, tensors = _read(file)
    try:
        call = _call(file, fault, tensors, registry)
        call()
    except ComponentError as error:
        return Replayed(str(fault.get("message")), error)
    except RlhfError:
        raise
    except Exception as error:  # what a component raises is a ComponentError
        raise RunError(f"{file} cannot be replayed: it is damaged: {type(error).__name__}: {error}") from error
    return Replayed(str(fault.get("message")), None)


def _call(
    file: Path, fault: Mapping[str, Any], tensors: Mapping[str, Tensor], registry: Registry
) -> Callable[[], object]:
    """The call, ready to be made."""
    registry = registry.with_files([Path(path) for path in fault["files"]])
    provenance.changes([Plugin(**fault["plugin"])], registry, str(file))
    made = component(fault["kind"], fault["component"], registry)
    inputs = [_unpacked(value, tensors) for value in fault["inputs"]]
    if fault["building"]:
        return lambda: made.build(*inputs)
    target = _target(made, fault, tensors, lambda: _run(file.parent, registry))
    return lambda: target(*inputs)


def _target(made: Any, fault: Mapping[str, Any], tensors: Mapping[str, Tensor], run: Callable[[], Run]) -> Any:
    """The component, or the object that it builds, with the weights of that time."""
    given = fault["built_of"]
    if given is None:
        return made
    if None in given:  # a reward, which is built of a run
        given = [run()]
    target = made.build(*given)
    if isinstance(target, nn.Module):
        weights = {name.removeprefix(WEIGHTS): v for name, v in tensors.items() if name.startswith(WEIGHTS)}
        target.load_state_dict(weights)
        target.train(fault["training"])
    return target


def _run(stage: Path, registry: Registry) -> Run:
    """The run that the stage of a folder was given, with its data loaded again."""
    from rlhf_plugins.data.file_names import RECIPE
    from rlhf_plugins.recipe.check import load_recipe
    from rlhf_plugins.run.files.folder import RunFolder
    from rlhf_plugins.run.stage.stage_run import stage_run

    folder = RunFolder(stage.parent)
    assembled = load_recipe(folder.path / RECIPE, registry=registry)
    data = assembled.data.load(assembled.base, assembled.seed)
    own = next(each for index, each in enumerate(assembled.stages) if folder.stage(index, each.name) == stage)
    return stage_run(assembled, data, stage, tuple(folder.finished()), own)


def _built_of(called: Any) -> list[int | None] | None:
    """The arguments of the `build` that made it, None for one that is no number; None where it is the component."""
    made = getattr(called, guards.MAKER, None)
    return [value if isinstance(value, int) else None for value in made.given] if made else None


def _packed(value: Any, key: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """A value as JSON, its tensors put beside it under names that begin with `key`."""
    if isinstance(value, Tensor):
        tensors[key] = _plain(value)
        return {"tensor": key, "learns": value.requires_grad}
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return {"objects": value.tolist()}
        tensors[key] = torch.from_numpy(value.copy())
        return {"array": key}
    if isinstance(value, np.random.Generator):
        return {"generator": value.bit_generator.state}
    if type(value) in RECORDS.values():
        parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"record": type(value).__name__, "fields": _each(parts, key, tensors)}
    if isinstance(value, Mapping):
        return {"mapping": _each(value, key, tensors)}
    if isinstance(value, list | tuple):
        return {"list": [_packed(item, f"{key}.{i}", tensors) for i, item in enumerate(value)]}
    plain = value is None or isinstance(value, str | int | float)
    return {"value": value} if plain else {"left_out": type(value).__name__}


def _each(values: Mapping[str, Any], key: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {name: _packed(value, f"{key}.{name}", tensors) for name, value in values.items()}


def _left_out(packed: Mapping[str, Any]) -> bool:
    """Whether a value, or an item of it, could not be saved; in a record only optional fields are such."""
    items = [*packed.get("list", ()), *packed.get("mapping", {}).values()]
    return "left_out" in packed or any(map(_left_out, items))


def _plain(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().clone()


def _unpacked(packed: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    if "tensor" in packed:
        return tensors[packed["tensor"]].clone().requires_grad_(packed["learns"])
    if "array" in packed:
        return tensors[packed["array"]].numpy()
    if "objects" in packed:
        return np.array(packed["objects"], dtype=object)
    if "generator" in packed:
        generator = np.random.default_rng()
        generator.bit_generator.state = packed["generator"]
        return generator
    if "record" in packed:
        fields = {name: _unpacked(value, tensors) for name, value in packed["fields"].items()}
        return RECORDS[packed["record"]](**fields)
    if "mapping" in packed:
        return {name: _unpacked(value, tensors) for name, value in packed["mapping"].items()}
    return [_unpacked(item, tensors) for item in packed["list"]] if "list" in packed else packed.get("value")


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        fault = read_json(file)
        if not isinstance(fault, dict) or "building" not in fault:
            raise ValueError("it is no saved call")
        return fault, load_file(file.with_name(TENSORS))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be replayed: {error}") from error
