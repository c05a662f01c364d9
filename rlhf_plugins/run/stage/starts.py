"""Where a stage starts and what its KL is measured to: the words of `from` and `reference` as weights on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rlhf_plugins.contract.run import StageResult, Weights
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.options import options

if TYPE_CHECKING:
    from rlhf_plugins.contract.run_kinds import Stage
    from rlhf_plugins.data.stage_outputs import HandedOn
    from rlhf_plugins.registry.registry import Registry

BASE, BELOW, PREVIOUS, START = "base", "below", "previous", "start"
NOTHING_BELOW = "the recipe's base is no policy that was trained from a model which is here, so nothing is `below` it"


@dataclass(frozen=True)
class Places:
    """The weights that a stage knows by a word."""

    base: Weights
    start: Weights
    reference: Weights
    lineage: tuple[str, ...] = ()  # start and reference, where earlier stages made them


def at(weights: Weights) -> Places:
    """A stage that starts from these weights, which are also its reference."""
    return Places(weights, weights, weights)


@dataclass(frozen=True)
class Policies:
    """The policies of earlier stages as weights; adapters without a note of their base are on `base`."""

    earlier: Sequence[StageResult]
    registry: Registry
    base: Weights

    def named(self, name: str) -> tuple[Weights, str]:
        """A policy's weights and lineage. Raises RunError where there is none of that name, or it is no saved model."""
        from rlhf_plugins.data.stage_outputs import find

        one = find(self.earlier, "policies", name)
        found = self._weights(one)
        if found is None:
            use = one.spec["use"]
            raise RunError(f"{one.name!r} is a {use}, and only a saved policy can be trained on or compared with")
        return found, one.lineage

    def last(self, required: bool) -> tuple[Weights, str] | None:
        """The last policy, with its lineage, unless a stage after it made a base. Raises RunError as `named` does.

        Args:
            required: refuse one that is no saved model; else it counts as none.
        """
        from rlhf_plugins.data.stage_outputs import handed_on

        made = next((result for result in reversed(self.earlier) if result.policies or result.base), None)
        if made is None or not made.policies:
            return None
        one = handed_on([made], "policies")[-1]
        found = self._weights(one)
        return self.named(one.qualified) if found or required else None

    def _weights(self, one: HandedOn) -> Weights | None:
        from rlhf_plugins.recipe.assemble import component

        found: Weights | None = component("generator", one.spec, self.registry).saved_at(self.base)
        return found and replace(found, name=one.name)


def places(stage: Stage, policies: Policies, outer: Places, chains: bool = True) -> Places:
    """The weights that a stage asks for.

    Args:
        stage: with its options `from` and `reference`.
        policies: the policies of the stages before it.
        outer: where it starts if it names no policy.
        chains: whether `previous` is the last stage that made a policy; else it is the outer start.

    Raises:
        RunError: there is no policy of that name, or it is no saved model.
    """
    start, reference, lineage = outer.start, outer.base, list[str]()
    if stage.from_ == BASE:
        start = outer.base
    elif stage.from_ != PREVIOUS:
        start, made = policies.named(stage.from_)
        lineage.append(made)
    elif chains and (last := policies.last(required="start" in names(stage, outer))):
        start, made = last
        lineage.append(made)
    if stage.reference == START:
        reference = start
    elif stage.reference == BELOW or (stage.reference == BASE and _measures_the_base(stage, policies)):
        reference = _below(stage, outer.base)
    elif stage.reference != BASE:
        reference, made = policies.named(stage.reference)
        lineage.append(made)
    return Places(outer.base, start, reference, tuple(dict.fromkeys(lineage)))


def _measures_the_base(stage: Stage, policies: Policies) -> bool:
    """Whether an evaluation has no other policy than the base, which is compared with what it was trained from."""
    return stage.judges and not any(result.policies or result.base for result in policies.earlier)


def _below(stage: Stage, base: Weights) -> Weights:
    """Raises RunError where a stage names the model below the base, and there is none."""
    from rlhf_plugins.recipe.base_policy import below

    found = below(base)
    if found is None and stage.reference == BELOW:
        raise RunError(f"reference: {NOTHING_BELOW}")
    return found or base


def names(stage: Stage, places: Places) -> dict[str, str]:
    """What the stage starts from and is compared with, as far as it has options for them and reads them."""
    found = {"from": ("start", places.start.name)}
    found |= {"reference": ("reference", places.reference.name)} if stage.reads_reference else {}
    cls: type = type(stage)
    return dict(pair for option, pair in found.items() if option in options(cls))


def in_words(stage: Stage, places: Places) -> str:
    """Both options in words, `from dpo, reference base`; empty for a stage without them."""
    words = {"start": "from", "reference": "reference"}
    return ", ".join(f"{words[key]} {name}" for key, name in names(stage, places).items())


def base_after(base: Weights, earlier: Sequence[StageResult]) -> Weights:
    """The base of a run after stages of which some made another one."""
    made = [result.base for result in earlier if result.base]
    return Weights(BASE, replace(base.base, path=str(made[-1]))) if made else base
