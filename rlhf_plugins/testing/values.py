"""Values for the options of a component: one where a recipe must say something, others to try, and wrong ones."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from rlhf_plugins.errors import PluginError
from rlhf_plugins.recipe.options import Option, options, plain, validated
from rlhf_plugins.registry.registry import Registry

NAMES = ("helpful", "honest")  # the dimensions that are rated in every case of the kit
NONSENSE = "no such value"


def made_up(option: Option, registry: Registry) -> Any:
    """A value for an option that a recipe must give; of a kind, a component that asks for no option, if there is one.

    Raises PluginError where none can be made up.
    """
    if option.kind:
        if not (names := registry.names(option.kind)):
            raise PluginError(f"{option.name}: no {option.kind} is installed to try the component with")
        name = next((name for name in names if _asks_nothing(registry.get(option.kind, name))), names[0])
        return [name] if option.many else name
    for value in _guesses(option.annotation, None):
        if _legal(option, value):
            return value
    raise PluginError(f"{option.name}: no value can be made up for it; give one to try the component with")


def others(option: Option, value: Any, registry: Registry) -> Iterator[Any]:
    """Legal values unlike `value`, as a recipe would write them; none for a block or a config."""
    if option.kind and not option.many:
        yield from (name for name in registry.names(option.kind) if name != _name(value))
    elif option.kind:
        yield from _other_lists(value, registry.names(option.kind))
    elif not option.block and not option.config:
        now = plain(option.annotation, value)
        yield from (guess for guess in _guesses(option.annotation, now) if guess != now and _legal(option, guess))


def wrong(option: Option, registry: Registry) -> Iterator[Any]:
    """Values that no recipe may give, as far as the option's type tells."""
    any_word = option.kind and getattr(registry.base(str(option.kind)), "named", None)
    if not any_word and (option.kind or option.block or option.config or str not in _leaves(option.annotation)):
        yield NONSENSE
    if _number(option.annotation):
        yield from (True, float("nan"))


def ends(option: Option) -> Iterator[Any]:
    """The bounds of a number that it may take itself."""
    for note in _notes(option.annotation):
        for bound in ("ge", "le"):
            if (end := getattr(note, bound, None)) is not None and _number(option.annotation):
                yield end


def chooses(option: Option) -> bool:
    """Whether its value is one of a few words, or yes or no."""
    return any(kind is bool or get_origin(kind) is Literal for kind in _leaves(option.annotation))


def _asks_nothing(component: type) -> bool:
    return not any(option.required for option in options(component).values())


def _guesses(annotation: Any, now: Any) -> Iterator[Any]:
    kinds = _leaves(annotation)
    yield from (value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind))
    if bool in kinds:
        yield from (False, True)
    if int in kinds:
        yield from ([now + 1, 2 * now, now - 1] if isinstance(now, int) else []) + [1, 2, 3, 0]
    if float in kinds:
        near = [2 * now, now / 2, now + 1, 10 * now] if isinstance(now, int | float) else []
        yield from [*near, 0.25, 0.75, 2.0, -1.0, 30.0, -30.0]
    if str in kinds:
        yield from NAMES
    yield from (made for kind in kinds if get_origin(kind) in (list, tuple) for made in _lists(kind, now))
    if NoneType in kinds:
        yield None


def _lists(kind: Any, now: Any) -> Iterator[Any]:
    of = _leaves(get_args(kind)[0])
    if float in of or int in of:
        yield from ([2 * x + 1 for x in now] if now else [], [0.5, 2.0], [2.0], [1, 2])
    if str in of:
        yield from (list(NAMES), [NAMES[0]], [NAMES[1], NAMES[0]])


def _other_lists(value: Any, names: list[str]) -> Iterator[list[Any]]:
    now = [_name(item) for item in value]
    for name in names:
        if now and name != now[0]:
            yield [name, *now[1:]]
        yield [*now, name]


def _name(value: Any) -> Any:
    return value.get("use") if isinstance(value, dict) else value


def _legal(option: Option, value: Any) -> bool:
    try:
        validated(option.annotation, value)
    except ValueError:
        return False
    return True


def _leaves(annotation: Any) -> tuple[Any, ...]:
    """The types that an annotation allows, without its notes."""
    if get_origin(annotation) is Annotated:
        return _leaves(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(leaf for member in get_args(annotation) for leaf in _leaves(member))
    return (annotation,)


def _number(annotation: Any) -> bool:
    return bool({int, float} & set(_leaves(annotation)))


def _notes(annotation: Any) -> Iterator[Any]:
    """Bounds are notes of `Annotated`, or in the metadata of a pydantic Field there."""
    if get_origin(annotation) is Annotated:
        inner, *notes = get_args(annotation)
        for note in notes:
            yield from note.metadata if isinstance(note, FieldInfo) else [note]
        yield from _notes(inner)
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _notes(member)
