"""Properties of options: each is read, refuses what it cannot mean, and survives the way through a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlhf_plugins.errors import RlhfError
from rlhf_plugins.recipe.assemble import component, spec
from rlhf_plugins.recipe.options import Option, options, plain, validated
from rlhf_plugins.testing import source
from rlhf_plugins.testing.conformance import OUTSIDE, holds_of
from rlhf_plugins.testing.observe import OBSERVED, differ, observed
from rlhf_plugins.testing.subject import Broken, Subject, expect, raised
from rlhf_plugins.testing.values import chooses, ends, others, wrong


def _changes(subject: Subject, option: Option, **path: Any) -> Iterator[tuple[Any, Any]]:
    """Other values of an option that the component's constructor takes on a path, each with the component."""
    now = subject.required.get(option.name, option.default)
    for value in others(option, now, subject.registry):
        try:
            yield value, subject.made(**path, **{option.name: value})
        except RlhfError:
            continue  # it does not go with the other options


@holds_of()
def can_be_made(subject: Subject) -> None:
    """Nothing can be tried of a component that a recipe cannot make."""
    try:
        subject.made()
    except RlhfError as error:
        raise Broken(f"a recipe's {{use: {subject.name}}}", "a component", raised(error)) from error


@holds_of(*OBSERVED)
def options_are_read(subject: Subject) -> None:
    """An option that nothing reads looks as if it worked: people tune it, report it and compare by it.

    So does one that is read on one path alone: a constructor can refuse what does not go together.
    """
    for path in _paths(subject):
        before = observed(subject, **path)
        for option in options(subject.cls).values():
            tried = [value for value, _ in _changes(subject, option, **path)] if option.name not in path else []
            changed = any(differ(before, observed(subject, **path, **{option.name: value})) for value in tried)
            where = "".join(f" with {name} = {value}" for name, value in path.items())
            values = f"{option.name} = {', '.join(map(str, tried))} in place of {_now(subject, option)}"
            found = f"nothing depends on the option {option.name!r}"
            expect(changed or not tried, f"{values}{where}, on every case", "another answer somewhere", found)


def _paths(subject: Subject) -> Iterator[dict[str, Any]]:
    """No change, and every other choice that one option offers."""
    yield {}
    for option in filter(chooses, options(subject.cls).values()):
        yield from ({option.name: value} for value, _ in _changes(subject, option))


def _now(subject: Subject, option: Option) -> Any:
    return subject.required.get(option.name, option.default)


@holds_of("stage", "data_format", "data_step", "reward", "reduction", "shaping", OUTSIDE)
def options_are_mentioned(subject: Subject) -> None:
    """An option whose name no line of the component's module reads is a flag without a function."""
    read_by_us = {"name", "data", "from", "reference"} if subject.kind == "stage" else set()  # by the runner
    own = {name: option.field or name for name, option in options(subject.cls).items()}
    for name in own.keys() - read_by_us:
        read = source.reads(subject.cls, own[name])
        expect(read, f"the source of {subject.cls.__module__}", f"a line that reads {name!r}", "none")


@holds_of()
def defaults_are_legal(subject: Subject) -> None:
    """A default that a recipe may not write cannot be written down, nor the run repeated from its record."""
    for option in options(subject.cls).values():
        if option.required or option.kind or option.block or option.config:
            continue
        try:
            validated(option.annotation, plain(option.annotation, option.default))
        except Exception as error:
            words = f"{option.name} = {option.default!r}, its default"
            raise Broken(words, f"a value that its type {option.shown_type} allows", raised(error)) from error


@holds_of()
def wrong_options_are_refused(subject: Subject) -> None:
    """What a recipe gets wrong should be said before the run, by the option's type; `Any` takes everything."""
    for option in options(subject.cls).values():
        for value in wrong(option, subject.registry):
            try:
                subject.made(**{option.name: value})
            except RlhfError:
                continue
            expect(False, f"{option.name} = {value!r}", f"a refusal, since it should be {option.shown_type}", "none")


@holds_of()
def options_round_trip(subject: Subject) -> None:
    """A run's record and a saved model hold the options as a recipe does: what is read back must be equal."""
    made = [subject.made()]
    for option in options(subject.cls).values():
        made += [changed for _, changed in list(_changes(subject, option))[:2]]
    for one in made:
        words = spec(one, subject.registry)
        again = component(subject.kind, words, subject.registry)
        expect(again == one, f"{words}, read back", str(one), str(again))


@holds_of()
def ends_are_usable(subject: Subject) -> None:
    """An option's bound says which values are legal: the bound itself must work, or be left out of them."""
    for option in options(subject.cls).values():
        for value in ends(option):
            try:
                subject.made(**{option.name: value})
            except RlhfError as error:
                raise Broken(f"{option.name} = {value}, the end of its range", "a component", raised(error)) from error
            if subject.kind in OBSERVED:
                bad = [name for name, found in observed(subject, **{option.name: value}).items() if _nan(found)]
                words = f"{option.name} = {value}, the end of its range; {bad[0] if bad else ''}"
                expect(not bad, words, "finite numbers", "NaN or infinity")


def _nan(found: Any) -> bool:
    return bool(hasattr(found, "isfinite") and found.is_floating_point() and not found.isfinite().all())
