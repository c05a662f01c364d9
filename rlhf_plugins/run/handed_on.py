"""What earlier stages handed on, found by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlhf_plugins.contract.run import StageResult
from rlhf_plugins.errors import RunError, nearest

Part = Literal["policies", "rewards"]
WORDS: Mapping[str, str] = {"policies": "policy", "rewards": "reward model"}


@dataclass(frozen=True)
class HandedOn:
    """A spec that a stage handed on under a name."""

    stage: str
    part: Part
    name: str
    spec: Mapping[str, Any]

    @property
    def lineage(self) -> str:
        """As `StageResult.opened` names it, `dpo.policies.dpo`."""
        return f"{self.stage}.{self.part}.{self.name}"

    @property
    def qualified(self) -> str:
        """The name with its stage's, which is unique."""
        return f"{self.stage}/{self.name}"


def handed_on(results: Sequence[StageResult], part: Part) -> Iterator[HandedOn]:
    """Everything of a part, in the order of the stages."""
    for result in results:
        for name, spec in getattr(result, part).items():
            yield HandedOn(result.name, part, name, spec)


def find(results: Sequence[StageResult], part: Part, name: str | None) -> HandedOn:
    """The policy or reward model of a name: its own, `stage/name`, or that of the stage that made it; None: the latest.

    Raises:
        RunError: there is none, or several stages gave that name.
    """
    every, word = list(handed_on(results, part)), WORDS[part]
    if not every:
        raise RunError(f"no earlier stage made a {word}")
    if name is None:
        return every[-1]
    for label in ("name", "qualified", "stage"):
        found = [one for one in every if getattr(one, label) == name]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(one.qualified for one in found)
            raise RunError(f"several stages made a {word} {name!r}: give one of {names}")
    raise RunError(f"no earlier stage made a {word} {name!r} {nearest(name, {one.name for one in every})}")
