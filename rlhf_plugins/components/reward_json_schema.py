"""A reward for JSON that fits a schema. It knows the keywords in `RULES`, and refuses every other one by name."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.run_kinds import Reward
from rlhf_plugins.errors import nearest

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Samples
    from rlhf_plugins.contract.run import Run
    from rlhf_plugins.contract.run_kinds import RewardFunction

FENCE = re.compile(r"\s*```(?:json)?[^\S\n]*\n(.*?)\n?```\s*", re.DOTALL)
NOTES = ("$schema", "title", "description", "default", "examples")  # keywords that allow everything
INNER = ("items", "not", "additionalProperties")  # keywords whose value is a schema
LISTS = ("anyOf", "allOf", "oneOf")  # of schemas
Schema = Mapping[str, Any] | bool


@dataclass(frozen=True)
class JSONSchema(Reward):
    """1 where the response is JSON that fits a schema, 0 where it is not; a code fence around it is allowed."""

    schema: Annotated[
        dict[str, Any], Field(description="a JSON schema: type, properties, required, items, enum; {} is any JSON")
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.schema, "schema")

    def build(self, run: Run) -> RewardFunction:
        """A function from B samples to B numbers."""

        def score(samples: Samples) -> Sequence[float | None]:
            return [float(self._holds(text)) for text in samples.responses]

        return score

    def _holds(self, response: str) -> bool:
        found = FENCE.fullmatch(response)
        try:
            return fits(json.loads(found[1] if found else response, parse_constant=_refuse), self.schema)
        except (ValueError, RecursionError):
            return False


def fits(value: Any, schema: Schema) -> bool:
    """Whether a value fits a schema, as its keywords are defined in JSON Schema 2020-12."""
    if isinstance(schema, bool):
        return schema
    return all(RULES[name](value, given, schema) for name, given in schema.items() if name not in NOTES)


def _check(schema: Any, where: str) -> None:
    """Raises ValueError for a keyword or a value that is not read here."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise ValueError(f"{where}: should be a schema, got {type(schema).__name__}")
    for name, given in schema.items():
        if name not in RULES and name not in NOTES:
            raise ValueError(f"{where}: unknown keyword {name!r} {nearest(name, RULES)}")
        right, words = VALUES.get(name, (None, ""))
        if right is not None and not right(given):
            raise ValueError(f"{where}.{name}: should be {words}, got {given!r}")
        if name == "type" and (wrong := [one for one in _listed(given) if one not in TYPES]):
            raise ValueError(f"{where}.type: unknown type {wrong[0]!r} {nearest(str(wrong[0]), TYPES)}")
        if name == "pattern":
            _compiled(given, where)
        for place, inner in _inside(name, given):
            _check(inner, f"{where}.{name}{place}")


def _inside(name: str, given: Any) -> list[tuple[str, Any]]:
    """The schemas in the value of a keyword, each with its place there."""
    if name == "properties":
        return [(f".{each}", inner) for each, inner in given.items()]
    if name in LISTS:
        return [(f"[{number}]", inner) for number, inner in enumerate(given)]
    return [("", given)] if name in INNER else []


def _compiled(pattern: str, where: str = "pattern") -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{where}: {pattern!r} is no regular expression: {error}") from error


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(a: Any, b: Any) -> bool:
    """Equal as JSON, also inside: 1 and 1.0 are, true and 1 are not."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    return bool(a == b) and ((_is_number(a) and _is_number(b)) or type(a) is type(b))


def _is_limit(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_some_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _additional(value: Any, given: Schema, schema: Mapping[str, Any]) -> bool:
    if not isinstance(value, dict):
        return True
    return all(fits(inner, given) for name, inner in value.items() if name not in schema.get("properties", {}))


TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": lambda value: _is_number(value) and math.isfinite(value) and value == int(value),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
# keyword -> whether it may be given as that, and what it should be in words
VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (lambda given: isinstance(given, str) or (_are_texts(given) and bool(given)), "a type or a list of types"),
    "enum": (lambda given: isinstance(given, list), "a list"),
    "properties": (lambda given: isinstance(given, Mapping), "schemas by name"),
    "required": (_are_texts, "a list of names"),
    "uniqueItems": (lambda given: isinstance(given, bool), "true or false"),
    "pattern": (lambda given: isinstance(given, str), "a regular expression"),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), (_is_count, "a whole number, 0 or more")),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), (_is_limit, "a number")),
    **dict.fromkeys(LISTS, (_is_some_list, "a list of schemas")),
}
# keyword -> whether a value keeps to it; a keyword for another type of value allows everything
RULES: dict[str, Callable[[Any, Any, Mapping[str, Any]], bool]] = {
    "type": lambda value, given, _: any(TYPES[one](value) for one in _listed(given)),
    "enum": lambda value, given, _: any(_same(value, one) for one in given),
    "const": lambda value, given, _: _same(value, given),
    "properties": lambda value, given, _: (
        not isinstance(value, dict) or all(fits(value[name], inner) for name, inner in given.items() if name in value)
    ),
    "required": lambda value, given, _: not isinstance(value, dict) or set(given) <= value.keys(),
    "additionalProperties": _additional,
    "items": lambda value, given, _: not isinstance(value, list) or all(fits(one, given) for one in value),
    "minItems": lambda value, given, _: not isinstance(value, list) or len(value) >= given,
    "maxItems": lambda value, given, _: not isinstance(value, list) or len(value) <= given,
    "uniqueItems": lambda value, given, _: (
        not (given and isinstance(value, list)) or not any(_same(a, b) for i, a in enumerate(value) for b in value[:i])
    ),
    "minLength": lambda value, given, _: not isinstance(value, str) or len(value) >= given,
    "maxLength": lambda value, given, _: not isinstance(value, str) or len(value) <= given,
    "pattern": lambda value, given, _: not isinstance(value, str) or _compiled(given).search(value) is not None,
    "minimum": lambda value, given, _: not _is_number(value) or value >= given,
    "maximum": lambda value, given, _: not _is_number(value) or value <= given,
    "exclusiveMinimum": lambda value, given, _: not _is_number(value) or value > given,
    "exclusiveMaximum": lambda value, given, _: not _is_number(value) or value < given,
    "anyOf": lambda value, given, _: any(fits(value, one) for one in given),
    "allOf": lambda value, given, _: all(fits(value, one) for one in given),
    "oneOf": lambda value, given, _: sum(fits(value, one) for one in given) == 1,
    "not": lambda value, given, _: not fits(value, given),
}


@hookimpl
def register_reward() -> dict[str, type]:
    """The reward of this file."""
    return {"json_schema": JSONSchema}
