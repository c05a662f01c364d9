"""The modules that a recipe's adapter names and its base has not, before anything is trained or downloaded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.recipe import base_policy
from rlhf_plugins.recipe.source import Keys


def unmatched(values: Mapping[str, Any], bad: Collection[Any]) -> Iterator[tuple[Keys, str]]:
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
