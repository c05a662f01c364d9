"""The base class of all components: frozen dataclasses; fields are options, keywords of the class are traits.

    class PlackettLuce(RewardLoss, whole_groups=True, needs={"ranks"}): ...

The base class of a kind declares its traits with `trait`; an unknown keyword raises PluginError at import. Calls of
components are checked: this module wraps them, `answers` has the checks, `guards` says which component failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import wraps
from inspect import signature
from typing import Any, ClassVar, Literal, get_args

from rlhf_plugins.errors import PluginError, nearest


def one_for_each(weights: Sequence[float] | None, parts: Sequence[object], what: str) -> None:
    """Raises ValueError where there are weights, and not one for each part; `what` is the parts' option."""
    if weights is not None and len(weights) != len(parts):
        raise ValueError(f"weights: {len(weights)} numbers for {len(parts)} {what}")


def uses(kind: str, default: str | list[str] | None = None, optional: bool = False, tag: str = "use") -> Any:
    """A dataclass field that holds a component of `kind`; a recipe names it, assembly makes the object.

    Args:
        kind: a component kind, such as `pooling`.
        default: the name where a recipe has none, or a list of names where the field is a `tuple`; None: it is
            required.
        optional: the field may hold None, written `none` in a recipe; this is its default, if there is no other.
        tag: the key of a recipe that names the component.
    """
    metadata = {"kind": kind, "default": default, **({"optional": True} if optional else {})}
    metadata |= {} if tag == "use" else {"tag": tag}
    if optional and default is None:
        return field(kw_only=True, default=None, metadata=metadata)
    if default == []:
        return field(kw_only=True, default=(), metadata=metadata)
    return field(kw_only=True, metadata=metadata)


@dataclass(frozen=True)
class Trait:
    """One trait that a kind declares; `choices` are the values that it may have, or the members where it is a set."""

    default: Any
    meaning: str
    choices: tuple[str, ...] = ()
    join: Callable[[Iterable[bool]], bool] = any  # from the bools of a component's parts to its own

    def read(self, value: Any) -> Any:
        """The value as the trait holds it. Raises ValueError saying what it should be."""
        if isinstance(self.default, frozenset):
            return self._members(value)
        if self.choices and value is not None:
            return self._chosen(value)
        if type(value) is not type(self.default) and not (self.default is None and isinstance(value, str)):
            raise ValueError(f"should be {type(self.default).__name__}, got {value!r}")
        return value

    def joined(self, values: Iterable[Any]) -> Any:
        """The value of a component that is made of others, from their values."""
        found = list(values)
        if isinstance(self.default, frozenset):
            return frozenset().union(*found)
        if isinstance(self.default, bool):
            return self.join(found) if found else self.default
        if isinstance(self.default, int | float):
            return max(found, default=self.default)
        return found[0] if found and all(value == found[0] for value in found) else self.default

    def _members(self, value: Any) -> frozenset[str]:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ValueError(f"should be a set of names, got {value!r}")
        for member in (members := frozenset(value)):
            if self.choices:
                self._chosen(member)
        return members

    def _chosen(self, value: Any) -> Any:
        if value not in self.choices:
            raise ValueError(f"unknown value {value!r} {nearest(str(value), self.choices)}")
        return value


def trait(default: Any, meaning: str, choices: Iterable[str] = (), join: Callable[[Iterable[bool]], bool] = any) -> Any:
    """Declares a trait in the base class of a kind: its default, what it means, and the values that it may have.

    A component that is made of others has a bool trait if any of its parts has it; with `join=all`, if all have it.
    """
    return Trait(default, meaning, tuple(choices), join)


MADE = ("base", "data", "evaluation", "policy", "reward")  # what a stage may make
Carried = Literal["optimizer", "value", "kl"]  # state that a training can take over from its start's
CARRIED = get_args(Carried)
# what a component may need of the rows
COLUMNS = (
    "annotator", "difficulty", "margin", "probability", "ranks", "ratings", "ties", "topic", "votes", "weight",
)  # fmt: skip


@dataclass(frozen=True)
class Earlier:
    """Marks an option that names an earlier stage, for `rlhf check`: `Annotated[str | None, Earlier("reward")]`.

    Args:
        makes: what that stage makes, as its trait `makes` says.
        words: values of the option that are no names of stages.
    """

    makes: str
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises PluginError where no stage can make it."""
        if self.makes not in MADE:
            raise PluginError(f"Earlier: unknown {self.makes!r} {nearest(self.makes, MADE)}")


REGISTERED = "_registered"  # where a class keeps the name that the registry gave it


class Component:
    """Base of all kinds. A subclass with `kind=` is the base class of a kind; any other is a component of it.

    Args of the class statement:
        kind: the kind that this class is the base of.
        like: fields that hold components; their traits become its own where it does not give these itself.
        traits: values of the traits that the kind declares.
    """

    kind: ClassVar[str] = ""
    traits: ClassVar[Mapping[str, Trait]] = {}
    like: ClassVar[tuple[str, ...]] = ()
    renamed: ClassVar[Mapping[str, str]] = {}  # a name that is no option: what to write instead
    handed_down: ClassVar[tuple[str, ...]] = ()  # attributes that a built object takes over beside the traits
    scored_alone: ClassVar[str] = ""  # why its rewards see no other response to a prompt: "an audit scores single ones"
    named: ClassVar[tuple[str, str] | None] = None  # the component and option that another word means
    _given: ClassVar[frozenset[str]] = frozenset()  # traits that the class or its bases give
    needs: ClassVar[frozenset[str]] = trait(
        frozenset(), "columns that the data must have: a recipe is refused where no row has one"
    )
    takes: ClassVar[frozenset[str]] = trait(frozenset(), "what earlier stages must have made", choices=MADE)
    reads_gold: ClassVar[bool] = trait(False, "reads the true reward of the data, which only simulated data has")

    def __init_subclass__(cls, *, kind: str | None = None, like: str | tuple[str, ...] = (), **given: Any) -> None:
        super().__init_subclass__()
        if kind is not None:
            cls.kind = kind
        declared = {name: value for name, value in vars(cls).items() if isinstance(value, Trait)}
        cls.traits = {**cls.traits, **declared}
        for name, one in declared.items():
            setattr(cls, name, one.default)
        cls._given = cls._given | given.keys()
        if like:
            cls.like = (like,) if isinstance(like, str) else like
            _take_over(cls)
        for name, value in given.items():
            setattr(cls, name, _read(cls, name, value))
        for name in ("__call__", "build"):
            if name in vars(cls) and kind is None:
                setattr(cls, name, _checked(vars(cls)[name], name))

    @property
    def recipe_name(self) -> str:
        """The name that a recipe uses for it; the name of its class where no plugin has registered it."""
        return str(vars(type(self)).get(REGISTERED, type(self).__name__))

    @property
    def builds(self) -> bool:
        """Whether it has a `build`, whose result does the work in its place."""
        return hasattr(self, "build")

    def acting(self, *given: Any) -> Any:
        """What does the work: the component itself, or the result of `build(*given)`."""
        return self.build(*given) if hasattr(self, "build") else self

    def held(self) -> tuple[Any, ...]:
        """The components whose traits it takes over (`like`)."""
        return tuple(_parts(getattr(self, name) for name in self.like))

    def needs_of(self) -> frozenset[str]:
        """Every column that this component needs: its own `needs` and those of its parts."""
        held = [getattr(self, each.name) for each in _fields(self) if "kind" in each.metadata]
        return self.needs.union(*(part.needs_of() for part in _parts(held)))

    def missing(self) -> Mapping[str, str]:
        """For `rlhf check`: options that name what is missing or does not fit, such as a file, each with a message."""
        return {}

    def fits_compared(self, option: str, called: str) -> None:
        """For `rlhf check`. Raises ValueError where the reward in `option` compares responses, and it scores one alone.

        `called` is the name of the aggregation by which that reward compares.
        """
        if self.scored_alone:
            raise ValueError(
                f"aggregation {called} compares the responses to a prompt, and {self.scored_alone}: take one that "
                "scores each alone, such as mean"
            )

    def checked(self, answer: Any, *inputs: Any) -> Any:
        """The answer to a call, if the kind allows it. Raises `reward_rows.Wrong` with what is wrong.

        The base class of each kind overrides it.
        """
        return answer

    def check_built(self, made: Any) -> None:
        """Raises `reward_rows.Wrong` where `build` returned what the kind does not allow."""
        if not callable(made) and type(self).checked is not Component.checked:
            from rlhf_plugins.contract.reward_rows import Wrong

            raise Wrong(f"built a {type(made).__name__}, which cannot be called")


_OWN = {name: value for name, value in vars(Component).items() if isinstance(value, Trait)}
Component.traits = _OWN
for _name, _trait in _OWN.items():
    setattr(Component, _name, _trait.default)


def _read(cls: type[Component], name: str, value: Any) -> Any:
    who = f"{cls.__module__}.{cls.__qualname__}"
    if name not in cls.traits:
        raise PluginError(f"{who}: {cls.kind or 'component'} has no trait {name!r} {nearest(name, cls.traits)}")
    try:
        return cls.traits[name].read(value)
    except ValueError as error:
        raise PluginError(f"{who}: trait {name} {error}") from error


def _fields(component: Any) -> tuple[Any, ...]:
    return fields(component) if is_dataclass(component) else ()


def _parts(held: Iterable[Any]) -> Iterator[Any]:
    """The components in fields that hold one, several or None."""
    for one in held:
        yield from one if isinstance(one, tuple | list) else () if one is None else (one,)


def _take_over(cls: type[Component]) -> None:
    """Makes every trait that neither the class nor a base gives follow the components that it holds."""
    for name in cls.traits.keys() - cls._given - cls.__dict__.get("__annotations__", {}).keys():
        setattr(cls, name, property(_followed(name, cls.traits[name])))


def _followed(name: str, one: Trait) -> Callable[[Component], Any]:
    return lambda component: one.joined(getattr(part, name) for part in component.held())


def _checked(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wraps a method of a component: its answer is checked, and an error names the component."""

    parameters = signature(function)

    @wraps(function)
    def method(self: Any, *inputs: Any, **named: Any) -> Any:
        from rlhf_plugins.contract import guards

        if named:  # guards know inputs by their places
            bound = parameters.bind(self, *inputs, **named)
            bound.apply_defaults()
            inputs = bound.args[1:]
        guard = guards.built_by if name == "build" else guards.answered
        return guard(self, function, inputs)

    return method


def answer_checks() -> Any:
    """The checks of answers, imported when the first component is called."""
    from rlhf_plugins.contract import answers  # imports torch

    return answers
