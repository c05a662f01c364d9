"""Faults of single values at the top of a recipe: output folder, base, quantization, and modules of the adapter."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf_plugins.contract.run import UNTRIED, Adapter, Base
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe import base_policy
from rlhf_plugins.recipe.naming import UNNAMEABLE, nameable
from rlhf_plugins.recipe.source import Keys


def faults(values: dict[str, Any], start: Path) -> Iterator[tuple[Keys, str]]:
    """What is wrong with them; the base's path is relative to `start`, and `~` becomes the home folder."""
    yield from _output(values)
    yield from _base(values, start)
    yield from _quantization(values)


def unmatched_modules(values: Mapping[str, Any], bad: Collection[Any]) -> Iterator[tuple[Keys, str]]:
    """What is wrong with the modules that the adapter names; nothing where base or adapter are among the `bad`."""
    base, options = values.get("base"), values.get("adapter")
    if {"base", "adapter"} & set(bad) or not base or not options:
        return
    default = options["target_modules"] == Adapter().target_modules and options["exclude_modules"] is None
    if default or base_policy.is_policy(base):
        return
    from rlhf_plugins.engine.weights.targets import unmatched_in  # it imports transformers
    from rlhf_plugins.sandbox import base_path

    for option, index, message in unmatched_in(base_path(base), Adapter(**options)):
        yield ("adapter", option, *(() if index is None else (index,))), message


def _output(values: dict[str, Any]) -> list[tuple[Keys, str]]:
    """What is wrong with the folder's name; `~` becomes the home folder."""
    name = values.get("output_dir")
    if not isinstance(name, str | Path):
        return []
    whole = os.path.expanduser(name)
    if not nameable(whole):
        return [(("output_dir",), UNNAMEABLE)]
    if whole.startswith("~"):
        return [(("output_dir",), f"{whole!r} begins with ~, and there is no such user; write the whole path")]
    values["output_dir"] = whole
    return []


def _base(values: dict[str, Any], start: Path) -> list[tuple[Keys, str]]:
    path = values.get("base")
    if path and base_policy.is_policy(path):
        return _of_another_run(values)
    message = base_policy.no_model(path, start) if path else ""
    return [(("base",), message)] if message else []


def _of_another_run(values: dict[str, Any]) -> list[tuple[Keys, str]]:
    """What is wrong with a base that is a policy; its own adapter and quantization become the recipe's."""
    adapter, quantization = values.get("adapter"), values.get("quantization")
    try:
        asked = Base(values["base"], None if quantization == "none" else quantization, adapter and Adapter(**adapter))
    except ValueError:  # `_quantization` says it
        return []
    try:
        found = base_policy.weights(asked).base
    except RunError as error:
        return [(("base",), str(error))]
    values["adapter"] = found.adapter and asdict(found.adapter)
    values["quantization"] = found.quantization or "none"
    return []


def _quantization(values: dict[str, Any]) -> list[tuple[Keys, str]]:
    if values.get("quantization") in (None, "none"):
        return []
    adapter = values.get("adapter", True)
    if isinstance(adapter, Mapping) and adapter.get("use_dora"):
        return [(("adapter", "use_dora"), UNTRIED)]
    if adapter is not None:
        return []
    message = "needs an adapter: quantized weights cannot be trained; leave out `adapter: none` or the quantization"
    return [(("quantization",), message)]
