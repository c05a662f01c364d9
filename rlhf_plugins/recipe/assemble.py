"""The one place where names become objects: resolved options in, components out, and back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.checkpoint import Checkpoint
from rlhf_plugins.contract.run import Base, Chat, Lengths, Weights
from rlhf_plugins.contract.run_kinds import DataFormat, Stage
from rlhf_plugins.errors import PluginError
from rlhf_plugins.recipe import base_policy
from rlhf_plugins.recipe.options import Option, options, plain, validated
from rlhf_plugins.recipe.resolve import Resolver
from rlhf_plugins.recipe.schema import Recipe
from rlhf_plugins.recipe.source import Keys, dotted
from rlhf_plugins.registry.registry import registry as installed

if TYPE_CHECKING:
    from rlhf_plugins.registry.registry import Registry


@dataclass(frozen=True)
class Assembled:
    """A recipe as objects, ready to run, with the values that made it."""

    base: Base
    adapter: Path | None  # saved on the base, with which the run starts
    data: DataFormat
    stages: tuple[Stage, ...]
    seed: int
    output_dir: Path
    engine: str
    checkpoint: Checkpoint | None
    resolved: dict[str, Any]
    registry: Registry


class Refused(ValueError):
    """A component's own constructor refuses its options; `keys` leads to it."""

    def __init__(self, keys: Keys, error: Exception) -> None:
        self.keys = keys
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        super().__init__(f"{kind}{error}")


def assemble(
    resolved: dict[str, Any], registry: Registry | None = None, made: Mapping[Keys, Any] | None = None
) -> Assembled:
    """The objects of a resolved recipe that has been checked; `made` holds data and stages that are made already."""
    registry = registry or installed()
    if made is None:
        recipe = construct(Recipe, resolved, (), registry)
    else:
        plain = {
            name: _value(option, resolved[name], (name,), registry)
            for name, option in options(Recipe).items()
            if name not in ("data", "stages")
        }
        stages = tuple(made["stages", place] for place in range(len(resolved["stages"])))
        recipe = Recipe(**plain, data=made[("data",)], stages=stages)
    found = weights(recipe)
    return Assembled(
        base=found.base,
        adapter=found.folder,
        data=recipe.data,
        stages=recipe.stages,
        seed=recipe.seed,
        output_dir=recipe.output_dir,
        engine=recipe.engine,
        checkpoint=recipe.checkpoint,
        resolved=resolved,
        registry=registry,
    )


def weights(recipe: Recipe) -> Weights:
    """What the first stage starts from. Raises RunError where a base that is a policy cannot be."""
    from rlhf_plugins.sandbox import base_path

    quantization = None if recipe.quantization == "none" else recipe.quantization
    asked = Base(base_path(recipe.base), quantization, recipe.adapter, recipe.trust_remote_code, chat_of(vars(recipe)))
    lengths = Lengths(recipe.max_length, recipe.max_prompt_length, recipe.truncation)
    return base_policy.weights(replace(asked, lengths=lengths))


def chat_of(recipe: Mapping[str, Any]) -> Chat | None:
    """How a recipe has conversations rendered; None where it leaves that to the tokenizer."""
    names = ("chat_template", "system", "chat_template_kwargs")
    template, system, given = (recipe.get(name) for name in names)
    return Chat(template, system, given or {}) if template or system or given else None


def component(kind: str, spec: str | Mapping[str, Any], registry: Registry | None = None) -> Any:
    """The component that a spec describes: a name, or `{"use": name, **options}`.

    Raises:
        PluginError: the kind, the name or an option is wrong.
    """
    registry = registry or installed()
    resolver = Resolver(registry)
    option = Option(kind, None, MISSING, kind)
    resolved = resolver.component(option, dict(spec) if isinstance(spec, Mapping) else spec, ())
    if resolver.problems:
        faults = "; ".join(f"{dotted((kind, *keys))}: {message}" for keys, message in resolver.problems)
        raise PluginError(faults)
    try:
        return named(option, resolved, (), registry)
    except Refused as refused:
        raise PluginError(f"{dotted((f'{kind} {resolved[option.tag]}', *refused.keys))}: {refused}") from refused


def spec(component: object, registry: Registry | None = None) -> dict[str, Any]:
    """The recipe's words for a component, `{"use": name, **options}`: the inverse of `component`."""
    registry = registry or installed()
    return {"use": registry.find(type(component)).name, **_options(component, registry)}


def construct(cls: type, resolved: Mapping[str, Any], keys: Keys, registry: Registry) -> Any:
    """A dataclass made of resolved options. Raises Refused when its constructor refuses them."""
    made = {
        option.field or name: _value(option, resolved[name], (*keys, name), registry)
        for name, option in options(cls).items()
    }
    try:
        return cls(**made)
    except Exception as error:  # a constructor may raise anything, and a recipe's author can act on all of it
        raise Refused(keys, error) from error


def refused_blocks(values: Mapping[str, Any], bad: Collection[Any], registry: Registry) -> Iterator[tuple[Keys, str]]:
    """What blocks of a recipe's top, such as `checkpoint`, have against their options; not of those that are bad."""
    for name, option in options(Recipe).items():
        if option.block and name not in bad:
            try:
                _value(option, values.get(name), (name,), registry)
            except Refused as refused:
                yield refused.keys, str(refused)


def named(option: Option, resolved: Mapping[str, Any], keys: Keys, registry: Registry) -> Any:
    """The component that a resolved block names."""
    return construct(registry.get(str(option.kind), resolved[option.tag]), resolved, keys, registry)


def _value(option: Option, value: Any, keys: Keys, registry: Registry) -> Any:
    if option.kind and value is None:
        return None
    if option.many:
        return tuple(named(option, item, (*keys, index), registry) for index, item in enumerate(value))
    if option.kind:
        return named(option, value, keys, registry)
    if option.block:
        return None if value is None else construct(option.block, value, keys, registry)
    return dict(value) if option.config else validated(option.annotation, value)


def _options(block: object, registry: Registry) -> dict[str, Any]:
    cls: type = type(block)
    return {name: _word(option, option.of(block), registry) for name, option in options(cls).items()}


def _word(option: Option, value: Any, registry: Registry) -> Any:
    if option.kind and value is None:
        return None
    if option.many:
        return [spec(item, registry) for item in value]
    if option.kind:
        return spec(value, registry)
    if option.block:
        return _options(value, registry) if is_dataclass(value) else None
    return dict(value) if option.config else plain(option.annotation, value)
