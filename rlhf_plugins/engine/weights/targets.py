"""The modules that an adapter names and a model has not, found without weights: a model on `meta` has the names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.errors import RunError, nearest

Unmatched = tuple[str, int | None, str]  # the option, the place in its list, None of a pattern, and what is wrong
ALL_LINEAR = "all-linear"  # what PEFT calls every linear layer but the head
_KNOWN: dict[str, PreTrainedModel] = {}  # by configuration: a suite checks hundreds of recipes of one base


def refuse_unmatched(model: PreTrainedModel, adapter: Adapter | None) -> None:
    """Raises RunError for modules of an adapter that a plain model does not have, with the names of those that it has.

    A trunk has no `lm_head`, and an adapter of a policy may name it beside others.
    """
    for option, _, message in unmatched(model, adapter) if adapter is not None else ():
        raise RunError(f"adapter.{option}: {message}")


def unmatched(model: PreTrainedModel, adapter: Adapter) -> Iterator[Unmatched]:
    """The target and excluded modules that a model does not have; of the excluded, only layers count."""
    whole = [name for name, _ in model.named_modules()]
    layers = [name for name, module in model.named_modules() if not list(module.children())]
    trunk, excluded = model.get_output_embeddings() is None, adapter.exclude_modules
    if adapter.target_modules != ALL_LINEAR:
        beside = trunk and len(adapter.target_modules) > 1
        yield from (("target_modules", *one) for one in _unmatched(adapter.target_modules, model, whole, beside))
    if excluded is not None:
        yield from (("exclude_modules", *one) for one in _unmatched(excluded, model, layers, trunk))


def _unmatched(
    targets: str | list[str], model: PreTrainedModel, names: Sequence[str], without_head: bool
) -> Iterator[tuple[int | None, str]]:
    """The targets that match no name of a module; `lm_head` may be missing where the head is elsewhere."""
    ends = {name.rpartition(".")[2] for name, module in model.named_modules() if not list(module.children())}
    named = {end for end in ends if not end.isdecimal()}
    if isinstance(targets, str):
        try:
            re.compile(targets)
        except re.error as error:
            yield None, f"{targets!r} is no pattern: {error}; names of modules go in a list, as [q_proj]"
            return
        if not any(re.fullmatch(targets, name) for name in names):
            pattern = f"; as text it is a pattern of whole names: write [{targets}]"
            of_list = pattern if targets in named else ""
            yield None, f"{_no_module(targets, model)} {nearest(targets, named | {ALL_LINEAR})}{of_list}"
        return
    for index, target in enumerate(targets):
        pattern = rf"(.*\.)?{re.escape(target)}"
        if without_head and target == "lm_head" or any(re.fullmatch(pattern, name) for name in names):
            continue
        yield index, f"{_no_module(target, model)} {nearest(target, named)}"


def unmatched_in(path: str, adapter: Adapter) -> list[Unmatched]:
    """The same of a base from its configuration alone; nothing where that is not on this machine, or is no policy's."""
    model = empty_model(path)
    return [] if model is None else list(unmatched(model, adapter))


def empty_model(path: str) -> PreTrainedModel | None:
    """The language model of a base on `meta`, which a later call returns too; None where it cannot be made."""
    shown = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = AutoConfig.from_pretrained(path, local_files_only=True)
            if (text := config.to_json_string()) not in _KNOWN:
                _KNOWN[text] = AutoModelForCausalLM.from_config(config)
            return _KNOWN[text]
    except Exception:  # whatever stops it, loading the base reports it
        return None
    finally:
        logging.set_verbosity(shown)


def _no_module(target: str, model: PreTrainedModel) -> str:
    return f"{target!r} matches no module of {type(model).__name__}"
