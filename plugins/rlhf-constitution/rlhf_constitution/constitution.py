"""A constitution: principles, the order of their gates, and the one score that they give a response together.

P(x, y) = prod_i max(p_i, floor)^(w_i) is the satisfaction, Score(x, y) = sum_i w_i p_i the weighted sum, with w
normalised over the principles that apply.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from importlib.resources import files
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from rlhf_constitution.assistant import Assistant
from rlhf_constitution.outcome import Abstain, Failed, Ok, Outcome, from_json, to_json
from rlhf_constitution.principle import Principle
from rlhf_plugins import DataError, RecipeError, nearest, nearest_path, uses


@dataclass(frozen=True)
class Scored:
    """A response scored by a constitution."""

    outcomes: Mapping[str, Outcome]
    satisfaction: float | None  # P; None where a principle abstained or failed
    score: float | None  # the weighted sum
    lost: tuple[tuple[str, ...], ...]  # the gates that it loses, by priority, the first priority first
    confidence: float = 1.0  # the smallest of its outcomes

    @property
    def key(self) -> tuple[float, ...]:
        """Greater is better: fewer gates lost, priority by priority, then P. Raises ValueError where P is not known."""
        if self.satisfaction is None:
            raise ValueError(f"not scored: {self.reason}")
        return (*(-len(names) for names in self.lost), self.satisfaction)

    @property
    def gates(self) -> frozenset[str]:
        """All gates that it loses."""
        return frozenset(name for names in self.lost for name in names)

    @property
    def reason(self) -> str:
        """Why P is not known; empty where it is."""
        bad = ((name, one) for name, one in self.outcomes.items() if isinstance(one, Abstain | Failed))
        return next((f"{name} {type(one).__name__.lower()}: {one.reason}" for name, one in bad), "")

    def to_json(self) -> dict[str, Any]:
        """A form that JSON holds."""
        return {**vars(self), "outcomes": {name: to_json(one) for name, one in self.outcomes.items()}}

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Scored:
        """The inverse of `to_json`."""
        outcomes = {name: from_json(one) for name, one in row["outcomes"].items()}
        return Scored(**{**row, "outcomes": outcomes, "lost": tuple(map(tuple, row["lost"]))})


@dataclass(frozen=True)
class Constitution:
    """Principles, and in which order their gates count."""

    principles: tuple[Principle, ...] = uses("principle")
    assistant: Assistant | None = uses("assistant", optional=True)
    order: Annotated[list[str], Field(description="priorities, as chains `first > second`")] = field(
        default_factory=lambda: ["safety > accuracy > helpfulness"]
    )
    floor: Annotated[float, Field(gt=0, lt=1, description="the least that a principle counts in P")] = 0.01

    def __post_init__(self) -> None:
        names = [principle.name or snake(type(principle).__name__) for principle in self.principles]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"principles: {names.count(name)} are called {name!r}; give them a `name:`")
        named = tuple(replace(one, name=name) for one, name in zip(self.principles, names, strict=True))
        object.__setattr__(self, "principles", named)
        for one in self.principles:
            self._place(one, self.priorities)
        asking = [one.name for one in self.principles if one.asks]
        if asking and self.assistant is None:
            raise ValueError(f"assistant: is required, since {', '.join(asking)} asks one")
        for one, other in combinations([one for one in self.principles if one.gate], 2):
            if found := one.conflict(other) or other.conflict(one):
                raise ValueError(f"principles: nothing keeps the gates of {one.name} and {other.name}: {found}")

    def _place(self, one: Principle, priorities: Sequence[str]) -> None:
        if one.priority and one.priority not in priorities:
            raise ValueError(f"principles: {one.name} has the priority {one.priority!r} (known: {self.known})")
        if one.gate is not None and not one.priority:
            raise ValueError(f"principles: {one.name} has a gate, so it needs a priority (known: {self.known})")

    @cached_property
    def priorities(self) -> tuple[str, ...]:
        """First to last. Raises ValueError for a circle."""
        graph: dict[str, set[str]] = {}
        for chain in self.order:
            words = [word.strip() for word in chain.split(">")]
            graph |= {word: graph.get(word, set()) for word in words}
            for above, below in pairwise(words):
                graph[below].add(above)
        try:
            return tuple(TopologicalSorter(graph).static_order())
        except CycleError as error:
            raise ValueError(f"order: goes in a circle: {' > '.join(error.args[1])}") from error

    @property
    def known(self) -> str:
        """The priorities in words."""
        return " > ".join(self.priorities)

    def judge(self, outcomes: Mapping[str, Outcome]) -> Scored:
        """One number, and the gates that are lost, of an outcome for each principle."""
        kept = [(one, found) for one in self.principles if isinstance(found := outcomes[one.name], Ok)]
        lost = tuple(
            tuple(p.name for p, ok in kept if p.priority == word and p.gate is not None and ok.value < p.gate)
            for word in self.priorities
        )
        if any(isinstance(one, Abstain | Failed) for one in outcomes.values()):
            return Scored(dict(outcomes), None, None, lost, 0.0)
        values, weights = [ok.value for _, ok in kept], [principle.weight for principle, _ in kept]
        confidence = min((ok.confidence for _, ok in kept), default=1.0)
        return Scored(
            dict(outcomes), satisfaction(values, weights, self.floor), weighted(values, weights), lost, confidence
        )


def satisfaction(values: Sequence[float], weights: Sequence[float], floor: float) -> float:
    """prod_i max(p_i, floor)^(w_i / sum w); 1 where nothing applies."""
    logs = [weight * math.log(max(value, floor)) for value, weight in zip(values, weights, strict=True)]
    return math.exp(sum(logs) / sum(weights)) if logs else 1.0


def weighted(values: Sequence[float], weights: Sequence[float]) -> float:
    """sum_i w_i p_i / sum w; 1 where nothing applies."""
    terms = [weight * value for value, weight in zip(values, weights, strict=True)]
    return sum(terms) / sum(weights) if terms else 1.0


def bundled() -> dict[str, Path]:
    """The constitutions that come with the package, by name."""
    folder = Path(str(files("rlhf_constitution") / "constitutions"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def load(path: str) -> Constitution:
    """A file's constitution, or a bundled one's.

    Raises:
        DataError: there is no such file, nor a bundled one of that name.
        RecipeError: with every fault and its line.
    """
    from rlhf_plugins import read_options  # which loads all that recipes need

    names = bundled()
    if path not in names and not Path(path).exists():
        beside = nearest_path(path, lambda file: file.suffix in {".yaml", ".yml"})
        raise DataError(f"{path}: no such file, nor a bundled constitution {nearest(path, names)}{beside}")
    return read_options(names.get(path, Path(path)), Constitution)


def faults(path: str) -> str:
    """What is wrong with a constitution or its assistant, in one line; empty where nothing is."""
    try:
        assistant = load(path).assistant
    except DataError as error:
        return str(error)
    except RecipeError as error:
        first, *more = error.faults
        return f"{first}" + f" (and {len(more)} more: rlhf constitution check {path})" * bool(more)
    unreached = assistant.missing() if assistant else {}
    return next((f"{path}: assistant.{option}: {message}" for option, message in unreached.items()), "")


def snake(name: str) -> str:
    """`LengthBand` as `length_band`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
