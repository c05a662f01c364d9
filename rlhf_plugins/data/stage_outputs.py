"""Finds what earlier stages made, by name: `dpo`, `second/dpo`, or the name of the stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlhf_plugins.contract.run import StageResult
from rlhf_plugins.errors import RunError, nearest

Part = Literal["policies", "rewards"]
WORDS: Mapping[Part, str] = {"policies": "policy", "rewards": "reward model"}
LABELS = ("name", "qualified", "stage")  # of `HandedOn`
BASE = "base"  # in the place of a stage: the model that a run started from


@dataclass(frozen=True)
class HandedOn:
    """A spec that a stage handed on under a name."""

    stage: str
    part: Part
    name: str
    spec: Mapping[str, Any]

    @property
    def lineage(self) -> str:
        """Its name in `StageResult.opened`, such as `dpo.policies.dpo`."""
        return f"{self.stage}.{self.part}.{self.name}"

    @property
    def qualified(self) -> str:
        """The name with its stage's, which is unique."""
        return f"{self.stage}/{self.name}"


Ask = Callable[[], Sequence[HandedOn]]


def split(words: str) -> tuple[str, str | None]:
    """The path and the name in `PATH#NAME`; no name where there is no #, or where it is a part of a path."""
    path, mark, name = words.rpartition("#")
    return (path, name) if mark and not Path(words).exists() else (words, None)


def handed_on(results: Sequence[StageResult], *parts: Part) -> list[HandedOn]:
    """Everything of these parts, one part after the other, each in the order of the stages."""
    return [
        HandedOn(result.name, part, name, spec)
        for part in parts
        for result in results
        for name, spec in getattr(result, part).items()
    ]


def find(results: Sequence[StageResult], part: Part, name: str | None) -> HandedOn:
    """The policy or reward model of a name: its own, `stage/name`, or that of the stage that made it; None: the latest.

    Raises:
        RunError: there is none, or several stages gave that name.
    """
    every, word = handed_on(results, part), WORDS[part]
    if not every:
        raise RunError(f"no earlier stage made a {word}")
    if name is None:
        return every[-1]
    found = _named(every, name)
    if len(found) > 1:
        names = ", ".join(one.qualified for one in found)
        raise RunError(f"several stages made a {word} {name!r}: give one of {names}")
    if not found:
        raise RunError(f"no earlier stage made a {word} {name!r} {nearest(name, {one.name for one in every})}")
    return found[0]


def of_run(run: object, name: str | None, own: Ask, every: Ask) -> HandedOn | None:
    """What `RUN#NAME` means; None where there is none.

    Args:
        run: the run as messages call it.
        name: None is the latest policy or, failing that, the latest reward model.
        own: gives what the run's stages handed on, policies first.
        every: gives that and what their parts did; it is asked where a name means nothing in `own`.

    Raises:
        RunError: several have the name.
    """
    if name is None:
        among = own() or every()
        return [one for one in among if one.part == among[0].part][-1] if among else None
    found = _named(own(), name) or _named(every(), name)
    if len(found) > 1:
        names = ", ".join(f"{run}#{one.qualified}" for one in found)
        raise RunError(f"{run}#{name}: that stage made several: give one of {names}")
    return found[0] if found else None


def _named(among: Sequence[HandedOn], name: str) -> list[HandedOn]:
    """All that a name means, of each part by the first that fits: what it is called, with its stage, or its stage."""
    found: list[HandedOn] = []
    for part in WORDS:
        fits = ([one for one in among if one.part == part and getattr(one, label) == name] for label in LABELS)
        found += next(filter(None, fits), [])
    return found
