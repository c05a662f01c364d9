"""For scripts and packages: a digest of what a recipe means, a component by its name, and options in a file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlhf_plugins.contract.component import Component
from rlhf_plugins.data import digests
from rlhf_plugins.errors import RecipeError
from rlhf_plugins.recipe import assemble
from rlhf_plugins.recipe.resolve import Resolver
from rlhf_plugins.recipe.source import read
from rlhf_plugins.registry.discovery import in_file
from rlhf_plugins.registry.registry import registry as installed

if TYPE_CHECKING:
    from rlhf_plugins.recipe.check import AnyRecipe
    from rlhf_plugins.registry.registry import Registry

Options = TypeVar("Options")


def recipe_digest(recipe: AnyRecipe, registry: Registry | None = None) -> str:
    """A digest of the resolved recipe without `output_dir`, equal for recipes of equal meaning; 16 hexadecimal digits.

    Defaults that are written out, the order of keys, and `1e-5` or `0.00001` make no difference. A file under
    `plugins:` counts by its content, not its path; other files and folders that are named, such as those of rows, of
    a base or with a function, count by both. TRL's options in `trainer:` count as they are written.

    Raises:
        RecipeError: the recipe has a fault.
    """
    from rlhf_plugins.recipe.check import check_recipe

    values = check_recipe(recipe, registry=registry)
    del values["output_dir"]
    values["plugins"] = [in_file(Path(file)).plugin.version for file in values["plugins"]]
    if content := dict(_contents(values)):
        values["content"] = content
    return sha256(json.dumps(_canonical(values), sort_keys=True).encode()).hexdigest()[:16]


def component(kind: str, name: str, /, **options: Any) -> Any:
    """A component by its kind and name, with the options that a recipe would give it.

    An option that holds a component takes its name, its spec `{"use": name, ...}` or a component.

    Raises:
        PluginError: the kind, the name or an option is unknown or wrong.
    """
    return assemble.component(kind, {"use": name, **{key: _spec(value) for key, value in options.items()}})


def read_options(file: str | Path, cls: type[Options]) -> Options:
    """A YAML file of a package's own, such as a constitution, read and checked as a recipe is.

    Args:
        file: a mapping of options, which may hold components; paths in it are relative to its folder.
        cls: a frozen dataclass, whose fields are the options.

    Raises:
        RecipeError: it holds every fault, with its line.
    """
    registry, source = installed(), read(file)
    resolver = Resolver(registry, source, Path(file).parent)
    values = resolver.block(cls, source.values, ())
    problems = list(resolver.problems)
    if not problems:
        try:
            made: Options = assemble.construct(cls, values, (), registry)
            return made
        except assemble.Refused as refused:
            problems = [(refused.keys, str(refused))]
    raise RecipeError(source.fault(*problem) for problem in problems)


def read_yaml(file: str | Path) -> dict[str, Any]:
    """The plain values of a YAML file of a package's own, under the rules of a recipe: no key twice, no tags.

    Raises:
        RecipeError: it names the file and the line.
    """
    values: dict[str, Any] = read(file).values
    return values


def _contents(value: Any) -> Iterator[tuple[str, str]]:
    """The digest of each file and folder that a resolved recipe names, whose paths are absolute."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _contents(inner)
    elif isinstance(value, str) and os.path.isabs(value):
        path = value if os.path.exists(value) else re.split("[:#](?=[^/]*$)", value)[0]  # FILE.py:FUNCTION, RUN#STAGE
        if os.path.dirname(path) != path and (found := digests.of_path(path)):  # a text may be a slash
            yield value, found


def _canonical(value: Any) -> Any:
    """One way to write each value: a whole number is an int."""
    if isinstance(value, dict):
        return {name: _canonical(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _spec(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_spec(item) for item in value]
    return assemble.spec(value) if isinstance(value, Component) else value
