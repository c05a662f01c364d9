"""A reward asked about the same responses with one property changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_plugins import DataError, Group
from rlhf_watch.ab.paired import Numbers
from rlhf_watch.probe.effects import UNKNOWN, Codes, Number, caused, observed
from rlhf_watch.probe.interventions import Intervention
from rlhf_watch.shift.units import conversation

POSITION = "position"
ROUNDING = 1e-5  # of float32, relative to the rewards
Score = Callable[[Sequence[Any], Sequence[Any]], Numbers]  # prompts and responses -> rewards, NaN where there is none


@dataclass(frozen=True)
class Effect:
    """What one property does to the reward, and what it goes with.

    Args:
        unit: the unit of the property.
        responses: the responses that could be changed, and had a reward both ways.
        effect: the effect of setting the property, for each unit.
        slope: the slope of the reward in the property over the responses as they are, for each unit.
        correlation: the correlation of the two.
        reason: why there is no effect; empty where there is one.
    """

    name: str
    unit: str
    responses: int
    effect: Number = UNKNOWN
    slope: Number = UNKNOWN
    correlation: Number = UNKNOWN
    reason: str = ""


@dataclass(frozen=True)
class Probed:
    """All effects; `deviation` is that of the rewards of the responses as they are."""

    prompts: int
    responses: int
    deviation: float
    effects: tuple[Effect, ...]


def probe(
    groups: Sequence[Group],
    score: Score,
    asked: Sequence[Intervention],
    reads: Callable[[str], bool] = lambda text: True,
    seed: int = 0,
) -> Probed:
    """The effects of interventions on the rewards of the groups' responses, and of the place among siblings.

    Args:
        groups: prompts with responses.
        score: may compare neighbours that have one prompt.
        asked: interventions.
        reads: whether the reward knows every token of a text; an intervention that needs one it does not is left out.
        seed: the seed of the intervals.

    Raises:
        DataError: fewer than two prompts have a response with a reward.
    """
    items = _distinct(groups)
    rewards = _scored(score, items)
    known = np.isfinite(rewards)
    prompts = len({item.key for item, one in zip(items, known, strict=True) if one})
    if prompts < 2:
        raise DataError(f"a probe needs responses with a reward to two prompts or more, got {prompts}")
    found = [_effect(one, items, rewards, score, reads, seed) for one in asked]
    return Probed(prompts, int(known.sum()), float(rewards[known].std()), (*found, _place(items, rewards, score, seed)))


@dataclass(frozen=True)
class _Item:
    """A response."""

    key: str
    prompt: Any
    response: Any

    @property
    def text(self) -> str | None:
        """What the intervention changes: a text, or the last message's; None where that is no text."""
        found = self.response if isinstance(self.response, str) else self.response[-1].get("content")
        return found if isinstance(found, str) and found.strip() else None

    def saying(self, text: str) -> _Item:
        """The response with another text."""
        if isinstance(self.response, str):
            return _Item(self.key, self.prompt, text)
        return _Item(self.key, self.prompt, [*self.response[:-1], {**self.response[-1], "content": text}])


def _distinct(groups: Sequence[Group]) -> list[_Item]:
    """Every response once, those to one prompt side by side, as they are when a reward compares them."""
    found: dict[str, dict[str, _Item]] = {}
    for group in groups:
        key = str(group.prompt)
        for text in group.responses:
            found.setdefault(key, {}).setdefault(str(text), _Item(key, group.prompt, text))
    return [item for responses in found.values() for item in responses.values()]


def _scored(score: Score, items: Sequence[_Item]) -> Numbers:
    return score([item.prompt for item in items], [item.response for item in items])


def _codes(items: Sequence[_Item], kept: Any) -> Codes:
    """0, 1, ... by the conversation of each item that is kept: its prompts are alike."""
    names = [str(conversation(item.prompt)) for item, one in zip(items, kept, strict=True) if one]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _effect(
    one: Intervention, items: Sequence[_Item], rewards: Numbers, score: Score, reads: Callable[[str], bool], seed: int
) -> Effect:
    if unread := [text for text in one.wordings if not reads(text)]:
        return Effect(one.name, one.unit, 0, reason=f"the tokenizer does not know all of {unread[0]!r}")
    slope, correlation = UNKNOWN, UNKNOWN
    if one.measure is not None:
        seen = np.array([np.nan if item.text is None else one.measure(item.text) for item in items])
        both = np.isfinite(seen) & np.isfinite(rewards)
        slope, correlation = observed(rewards[both], seen[both], _codes(items, both), seed)
    changes = list(_changes(one, items))
    if not changes:
        return Effect(one.name, one.unit, 0, UNKNOWN, slope, correlation, "no response can be changed so")
    owners, dose, on, off = zip(*changes, strict=True)
    change = _scored(score, on) - _scored(score, off)
    kept = np.isfinite(change)
    effect = caused(change[kept], np.array(dose)[kept], _codes(owners, kept), seed)
    return Effect(one.name, one.unit, int(kept.sum()), effect, slope, correlation)


def _changes(one: Intervention, items: Sequence[_Item]) -> Iterator[tuple[_Item, float, _Item, _Item]]:
    """Each response that the intervention changes: itself, by how many units, with the property, and without."""
    for number, item in enumerate(items):
        if item.text is None:
            continue
        on, off = one.on(item.text, number), one.off(item.text, number)
        dose = float(on != off) if one.measure is None else one.measure(on) - one.measure(off)
        if dose > 0:
            yield item, dose, item.saying(on), item.saying(off)


def _place(items: Sequence[_Item], rewards: Numbers, score: Score, seed: int) -> Effect:
    """The effect of being scored last among a prompt's responses, not first: 0 unless the reward compares them."""
    groups: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        groups.setdefault(item.key, []).append(number)
    several = [places for places in groups.values() if len(places) > 1]
    order = [number for places in several for number in reversed(places)]
    if not order:
        return Effect(POSITION, "move", 0, reason="no prompt has two responses")
    turned = np.full(len(items), np.nan)
    turned[order] = _scored(score, [items[number] for number in order])
    change, place = np.full(len(items), np.nan), np.full(len(items), np.nan)
    for places in several:
        change[places[0]] = turned[places[0]] - rewards[places[0]]
        change[places[-1]] = rewards[places[-1]] - turned[places[-1]]
        place[places] = np.arange(len(places)) / (len(places) - 1)
    change[np.abs(change) <= ROUNDING * np.nanmax(np.abs(rewards))] = 0  # one batch rounds otherwise than another
    moved, both = np.isfinite(change), np.isfinite(place) & np.isfinite(rewards)
    effect = caused(change[moved], np.ones(moved.sum()), _codes(items, moved), seed)
    slope, correlation = observed(rewards[both], place[both], _codes(items, both), seed)
    return Effect(POSITION, "move", int(moved.sum()), effect, slope, correlation)
