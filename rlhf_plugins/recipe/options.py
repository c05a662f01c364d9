"""The options of a component: its dataclass fields, read once.

An option holds one of four things: a component (a field made by `contract.component.uses`), a block of more options
(its type is a dataclass), the options of a TRL config class, or a plain value, which pydantic checks.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, SimpleNamespace, UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from pydantic.fields import FieldInfo

from rlhf_plugins.errors import PluginError, nearest

if TYPE_CHECKING:
    from rlhf_plugins.recipe.source import Keys

Mark = TypeVar("Mark")
NONE = "none"  # what a recipe may write for an optional block


@dataclass(frozen=True)
class Option:
    """One option of a component or block."""

    name: str
    annotation: Any
    default: Any  # MISSING: a recipe must give it; of a component option: its name
    kind: str | None = None  # the component kind it holds
    tag: str = "use"  # the key that names the component
    many: bool = False  # a list of components
    nullable: bool = False  # it may hold no component at all
    block: type | None = None  # a dataclass of further options
    config: str | None = None  # a TRL config class, as `module.Class`
    field: str = ""  # the field of the dataclass, where its name is another one

    def of(self, holder: Any) -> Any:
        """Its value in a component or block."""
        return getattr(holder, self.field or self.name)

    @property
    def required(self) -> bool:
        """Whether a recipe must give it."""
        return self.default is MISSING

    @property
    def optional(self) -> bool:
        """Whether `none` is a value of it."""
        return self.nullable or NoneType in _members(self.annotation)

    def mark(self, cls: type[Mark]) -> Mark | None:
        """What its annotation says of it with an object of `cls`, such as `OnDisk`."""
        notes = getattr(self.annotation, "__metadata__", ())
        return next((note for note in notes if isinstance(note, cls)), None)

    @property
    def description(self) -> str:
        """The help text of the field, or nothing."""
        notes = getattr(self.annotation, "__metadata__", ())
        return next((n.description for n in notes if isinstance(n, FieldInfo) and n.description), "")

    @property
    def shown_type(self) -> str:
        """Its type in a word or two."""
        if self.kind:
            one = f"list of {self.kind}" if self.many else self.kind
            return f"{one} or none" if self.nullable else one
        return f"options of {self.config}" if self.config else _shown_type(self.annotation)

    def __str__(self) -> str:
        default = " (required)" if self.required else f" = {self.default}"
        description = f"  {self.description}" if self.description else ""
        return f"{self.name}: {self.shown_type}{default}{description}"


@cache
def options(cls: type) -> Mapping[str, Option]:
    """The options of a dataclass, in order. Raises PluginError for an annotation that cannot be read.

    A field `from_`, whose name Python keeps for itself without the underscore, is the option `from`.
    """
    found = (_option(cls, field) for field in fields(cls) if field.init)
    return {option.name: option for option in found}


def parts(component: object) -> Iterator[Any]:
    """A component with all that it holds, however deep."""
    return (part for _, part in all_parts(component))


def all_parts(component: object) -> Iterator[tuple[Keys, Any]]:
    """A component with all that it holds, however deep, and where each is."""
    yield (), component
    for keys, part in parts_of(component):
        yield from (((*keys, *below), found) for below, found in all_parts(part))


def parts_of(component: object) -> Iterator[tuple[Keys, Any]]:
    """The components that a component holds, and where each is."""
    cls: type = type(component)
    for name, option in options(cls).items():
        held = option.of(component) if option.kind else None
        if held is not None and option.many:
            yield from (((name, index), part) for index, part in enumerate(held))
        elif held is not None:
            yield (name,), held


def validated(annotation: Any, value: Any) -> Any:
    """The value as the annotation wants it, text made numbers. Raises ValueError saying what is wrong."""
    try:
        result = adapter(annotation).validate_python(value)
    except ValidationError as error:
        raise ValueError(_explained(error, value)) from error
    if not _same_bools(value, result):
        raise ValueError(f"should be {_shown_type(annotation)}, got {_shown(value)}")
    if not _finite(result):
        raise ValueError(f"should be a finite number, got {_shown(value)}")
    return result


def plain(annotation: Any, value: Any) -> Any:
    """A checked value as YAML can hold it: tuples as lists, paths as text."""
    return adapter(annotation).dump_python(value, mode="json", warnings=False)


@cache
def adapter(annotation: Any) -> TypeAdapter[Any]:
    """Pydantic's reading of an annotation. Raises PydanticSchemaGenerationError when it has none."""
    return TypeAdapter(annotation)


def _option(cls: type, field: Field[Any]) -> Option:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    kind = field.metadata.get("kind")
    if kind:
        nullable = field.metadata.get("optional", False)
        default = MISSING if field.metadata["default"] is None and not nullable else field.metadata["default"]
        many = str(field.type).startswith("tuple[")
        tag = field.metadata.get("tag", "use")
        return Option(field.name, None, default, kind=kind, tag=tag, many=many, nullable=nullable)
    annotation = _annotation(cls, field)
    name, config = field.name.removesuffix("_"), field.metadata.get("config")
    option = Option(name, annotation, default, block=_block(annotation), config=config, field=field.name)
    if not option.block:
        _readable(cls, option)
    return option


def _annotation(cls: type, field: Field[Any]) -> Any:
    """One by one, since the annotation of a component option may name what only a type checker imports."""
    owner = next(base for base in cls.__mro__ if field.name in base.__dict__.get("__annotations__", {}))
    holder = SimpleNamespace(__annotations__={field.name: field.type})
    try:
        return get_type_hints(holder, vars(sys.modules[owner.__module__]), include_extras=True)[field.name]
    except NameError as error:
        raise PluginError(f"{cls.__module__}.{cls.__qualname__}.{field.name}: annotation not found: {error}") from error


def _readable(cls: type, option: Option) -> None:
    try:
        adapter(option.annotation)
    except PydanticSchemaGenerationError as error:
        raise PluginError(
            f"{cls.__module__}.{cls.__qualname__}.{option.name}: a recipe cannot hold a value of type "
            f"{_shown_type(option.annotation)}"
        ) from error


def _block(annotation: Any) -> type | None:
    return next((member for member in _members(annotation) if isinstance(member, type) and is_dataclass(member)), None)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types that a union names; of any other type, itself."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _shown_type(annotation: Any) -> str:
    """A type in the words of recipes: `int or null`, `list[float]`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _shown_type(inner[0])
    if origin in (Union, UnionType):
        return " or ".join(map(_shown_type, inner))
    if origin in (list, tuple, dict):
        return f"{origin.__name__}[{', '.join('...' if one is ... else _shown_type(one) for one in inner)}]"
    if annotation is NoneType:
        return "null"
    return annotation.__name__ if type(annotation) is type else str(annotation).replace("typing.", "")


def _shown(value: Any) -> str:
    shown = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _explained(error: ValidationError, value: Any) -> str:
    problems = error.errors(include_url=False)
    choices = [problem["ctx"]["expected"] for problem in problems if problem["type"] == "literal_error"]
    if choices and isinstance(value, str):
        return f"unknown value {value!r} {nearest(value, _quoted(choices))}"
    messages = dict.fromkeys(problem["msg"].removeprefix("Input ").rstrip(".") for problem in problems)
    where = {".".join(map(str, problem["loc"])) for problem in problems if _inside(problem["loc"])}
    inside = f" (at {sorted(where)[0]})" if len(where) == 1 and isinstance(value, list | dict) else ""
    return f"{' or '.join(messages)}, got {_shown(value)}{inside}"


def _inside(loc: Sequence[str | int]) -> bool:
    return any(isinstance(key, int) for key in loc)


def _quoted(expected: Sequence[str]) -> Iterator[str]:
    """The names in pydantic's "'nf4', 'int8' or 'none'"."""
    for text in expected:
        yield from text.split("'")[1::2]


def _same_bools(value: Any, result: Any) -> bool:
    """False where lax reading made a number of a bool or a bool of something else."""
    if isinstance(value, dict) and isinstance(result, dict):
        return all(_same_bools(value[key], result[key]) for key in value if key in result)
    if isinstance(value, list) and isinstance(result, Sequence) and not isinstance(result, str):
        return all(map(_same_bools, value, result))
    return isinstance(value, bool) == isinstance(result, bool)


def _finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
