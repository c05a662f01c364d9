"""The modules that an adapter names and a model has not, found without weights: a model on `meta` has the names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.errors import RunError, nearest

ALL_LINEAR = "all-linear"  # what PEFT calls every linear layer but the head
_KNOWN: dict[str, PreTrainedModel] = {}  # by configuration: a suite checks hundreds of recipes of one base


def refuse_unmatched(model: PreTrainedModel, adapter: Adapter | None) -> None:
    """Raises RunError for target modules that a plain model does not have, with the names of those that it has.

    A trunk has no `lm_head`, and an adapter of a policy may name it beside others.
    """
    for _, message in unmatched(model, adapter) if adapter is not None else ():
        raise RunError(f"adapter.target_modules: {message}")


def unmatched(model: PreTrainedModel, adapter: Adapter) -> Iterator[tuple[int | None, str]]:
    """The target modules that a model does not have: the place in their list, None of a pattern, and what is wrong."""
    targets = adapter.target_modules
    if targets == ALL_LINEAR:
        return
    ends = {name.rpartition(".")[2] for name, module in model.named_modules() if not list(module.children())}
    named = {end for end in ends if not end.isdecimal()}
    if isinstance(targets, str):
        try:
            re.compile(targets)
        except re.error as error:
            yield None, f"{targets!r} is no pattern: {error}; names of modules go in a list, as [q_proj]"
            return
        if not any(re.fullmatch(targets, name) for name, _ in model.named_modules()):
            of_list = f"; as text it is a pattern of whole names: write [{targets}]" * (targets in named)
            yield None, f"{_no_module(targets, model)} {nearest(targets, named | {ALL_LINEAR})}{of_list}"
        return
    trunk = model.get_output_embeddings() is None and len(targets) > 1
    for index, target in enumerate(targets):
        pattern = rf"(.*\.)?{re.escape(target)}"
        if trunk and target == "lm_head" or any(re.fullmatch(pattern, name) for name, _ in model.named_modules()):
            continue
        yield index, f"{_no_module(target, model)} {nearest(target, named)}"


def unmatched_in(path: str, adapter: Adapter) -> list[tuple[int | None, str]]:
    """The same of a base from its configuration alone; nothing where that is not on this machine, or is no policy's."""
    shown = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = AutoConfig.from_pretrained(path, local_files_only=True)
            if (text := config.to_json_string()) not in _KNOWN:
                _KNOWN[text] = AutoModelForCausalLM.from_config(config)
            return list(unmatched(_KNOWN[text], adapter))
    except Exception:  # whatever stops it, loading the base reports it
        return []
    finally:
        logging.set_verbosity(shown)


def _no_module(target: str, model: PreTrainedModel) -> str:
    return f"{target!r} matches no module of {type(model).__name__}"
