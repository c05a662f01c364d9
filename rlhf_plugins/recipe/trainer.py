"""Checks a stage's `trainer:` block against the TRL config class that will receive it."""

from __future__ import annotations

import importlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic.errors import PydanticSchemaGenerationError

from rlhf_plugins.errors import PluginError, nearest
from rlhf_plugins.recipe.option_hints import OTHERS, in_a_stage
from rlhf_plugins.recipe.options import validated
from rlhf_plugins.recipe.unsupported_options import (
    FULL_EVAL,
    OF_TRANSFORMERS,
    RANGES,
    check_trackers,
    keeping_the_best,
    useless,
)

SECRETS = frozenset({"hub_token"})  # a recipe and a report are read by others
OBJECTS = frozenset({"parallelism_config"})
Problem = tuple[str | None, str]  # the option it is about, or None for the block, and what is wrong


@cache
def config_options(config: str) -> Mapping[str, Any]:
    """The options of a config class, `module.Class`, and their annotations. Importing TRL takes seconds."""
    cls = _load(config)
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls) if field.init}


@cache
def choices(config: str) -> Mapping[str, list[str]]:
    """The words that an option of a config class may be, of those that are words of a fixed list."""
    types = config_options(config)
    listed = {field.name: field.metadata.get("choices") for field in fields(_load(config)) if field.init}
    enums = {name: _enum(types[name]) for name in listed}
    found = {name: enums[name] or words for name, words in listed.items()}
    return {name: list(map(str, words)) for name, words in found.items() if words}


def _enum(annotation: Any) -> list[str]:
    """The values of the enumeration that an annotation allows; none where it allows no such."""
    members = (annotation, *get_args(annotation))
    return [one.value for cls in members if isinstance(cls, type) and issubclass(cls, Enum) for one in cls]


def resolved(
    config: str, values: Mapping[str, Any], reserved: Mapping[str, str]
) -> tuple[dict[str, Any], list[Problem]]:
    """The values as the config class wants them, and everything that is wrong with them.

    Args:
        config: the class, as `trl.DPOConfig`.
        values: the values of a recipe's `trainer` block.
        reserved: options that the stage refuses -> what to say of each; empty where it has nothing of its own to say.
    """
    if not values:
        return {}, []
    good: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in values.items():
        try:
            good[name] = _value(config, name, value, reserved)
        except ValueError as error:
            problems.append((name, str(error)))
    problems += useless(good)
    return good, problems or list(_refused(config, good))


def _value(config: str, name: str, value: Any, reserved: Mapping[str, str]) -> Any:
    types = config_options(config)
    if name in SECRETS:
        raise ValueError(OTHERS[name])
    if name in OBJECTS and value is not None:
        raise ValueError("is an object of accelerate, which a recipe cannot hold; leave it out")
    if name in reserved:
        raise ValueError(reserved[name] or _instead(name))
    if name not in types:
        if instead := in_a_stage(name):
            raise ValueError(f"unknown option of {_known_as(config)}: {instead}")
        near = get_close_matches(name, types.keys() - set(reserved) - SECRETS)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: its {len(types)} options are TRL's own"
        raise ValueError(f"unknown option of {_known_as(config)} ({hint})")
    if (words := choices(config).get(name)) and isinstance(value, bool | str) and value not in words:
        quotes = '; YAML reads no as false: write "no"' if value is False and "no" in words else ""
        raise ValueError(f"unknown value {value!r} {nearest(str(value), words)}{quotes}")
    try:
        result = validated(types[name], value)
    except PydanticSchemaGenerationError:
        return value
    if name in RANGES and result is not None:
        validated(RANGES[name], result)
    if name == "report_to":
        check_trackers(result)
    return value if value == result else result  # keeps a 10 where TRL's type is float


def _known_as(config: str) -> str:
    """A configuration class as users know it: `trl.RewardConfig`, and ours without its module."""
    return config.rpartition(".")[2] if config.startswith("rlhf_plugins.") else config


def _instead(name: str) -> str:
    """What to do in place of a reserved option."""
    if name in ("seed", "output_dir", "trust_remote_code"):
        return f"is set by the stage itself; write `{name}:` at the top of the recipe"
    if name == "resume_from_checkpoint":
        return "is not read; say `rlhf run --resume`"
    if name in FULL_EVAL:
        return "is read by an evaluation outside a training, and stages evaluate within it; leave it out"
    if name in OF_TRANSFORMERS:
        return "is read in transformers' own forward pass, and this stage always has the engine's; leave it out"
    return "is set by the stage or not read; leave it out; `rlhf plugins show stage NAME` lists the stage's own options"


def _refused(config: str, values: Mapping[str, Any]) -> Iterator[Problem]:
    """What the config class itself says; nothing is written, a scratch folder only names a place."""
    import torch

    accelerator = torch.accelerator.is_available()
    base: dict[str, Any] = {"output_dir": str(Path(tempfile.gettempdir(), "unused")), "report_to": "none"}
    base |= {"use_cpu": not accelerator, "bf16": False, **keeping_the_best(values)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself shows them
        try:
            made = _load(config)(**{**base, **values})
        except Exception as error:  # any exception is a refusal
            yield None, f"{_known_as(config)} refuses these options: {' '.join(str(error).split())}"
            return
        for names, build in _BUILT.items():
            given = [name for name in names if name in values]
            if given and (why := _failure(build, made)):
                yield given[0], f"cannot be used: {why}"


def _failure(build: Callable[[Any], object], made: Any) -> str:
    """What a builder raises, in a line; empty where it builds."""
    try:
        build(made)
    except Exception as error:  # any exception would end the stage when it begins
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _schedule(made: Any) -> None:
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    get_scheduler(made.lr_scheduler_type, optimizer, 1, 10, scheduler_specific_kwargs=made.lr_scheduler_kwargs)


def _optimizer(made: Any) -> None:
    from torch import nn
    from transformers import Trainer

    cls, options = Trainer.get_optimizer_cls_and_kwargs(made, nn.Linear(1, 1))
    if cls.__module__.startswith("torch."):  # others may want a GPU
        cls(nn.Linear(1, 1).parameters(), **options)


_BUILT: Mapping[tuple[str, str], Callable[[Any], object]] = {  # what transformers reads once a training begins
    ("lr_scheduler_kwargs", "lr_scheduler_type"): _schedule,
    ("optim_args", "optim"): _optimizer,
}


@cache
def _load(config: str) -> type:
    module, _, name = config.rpartition(".")
    try:
        cls: type = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise PluginError(f"trainer config {config!r} cannot be imported: {error}") from error
    return cls
