"""A forecast in words: a line for each stage and phase, and what would fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rlhf_plugins.forecast.cards import smallest
from rlhf_plugins.report.words import memory

if TYPE_CHECKING:
    from rlhf_plugins.forecast.advice import Change
    from rlhf_plugins.forecast.cards import Card
    from rlhf_plugins.forecast.forecast import Forecast, StageForecast
    from rlhf_plugins.forecast.several import Cards, Traffic

FIT = "rlhf estimate says what would fit, and --fit applies it where the batch stays the same"
ONLY_JUST = "it fits only just, within the error of the forecast"
SMALL = 0.01  # the share of the peak below which a consumer is left out


def lines(found: Forecast, changes: Mapping[str, Change | None]) -> Iterator[str]:
    """All of a forecast."""
    for one in found.stages:
        yield f"{one.name}: {_verdict(one)}"
        for phase, consumers in one.phases.items():
            total = sum(consumers.values())
            parts = [
                f"{name} {memory(size)}"
                for name, size in sorted(consumers.items(), key=lambda each: -each[1])
                if size > SMALL * total
            ]
            yield f"  {phase:<10} {memory(total):>9} allocated: {', '.join(parts)}"
        if one.name in changes:
            yield f"  {_advice(changes[one.name], one)}"
    if paths := sorted(set().union(*(one.assumed for one in found.stages))):
        yield f"assumes that these pass their trials on the card: {', '.join(paths)}"
    if found.card is None:
        card = smallest(found.needed)
        yield f"needs {memory(found.needed)}: " + (f"a card such as {card.name}" if card else "no card in the list")


def fitted(found: Forecast) -> str:
    """The verdict on a recipe with the changes that were made to fit it."""
    if found.too_large:
        return "does not fit even"
    return "uncertain, within the error of the forecast," if any(one.tight for one in found.stages) else "fits"


def of_several(found: Forecast, cards: Cards, traffic: Mapping[str, Traffic]) -> Iterator[str]:
    """The forecast of each card of several, and what each sends."""
    yield f"{cards.count} cards, {cards.strategy}: the numbers are of each card"
    for line in lines(found, {}):
        yield line
        name = line.partition(":")[0]
        if name in traffic:
            one = traffic[name]
            yield f"  {'step':<10} {memory(one.sent_bytes):>9} sent by each card, {one.rows} rows learned from"


def warnings(found: Forecast) -> Iterator[str]:
    """A line for each stage that may run out of memory."""
    for one in found.stages:
        if not one.tight:
            continue
        assert one.card is not None
        what = next(iter(one.consumers), "")
        advice = FIT if one.too_large else ONLY_JUST
        yield (
            f"stage {one.name} may need {memory(one.peak_bytes)} of the GPU's {_size(one.card)}, most of it for "
            f"{what} ({one.largest}): {advice}"
        )


def in_short(one: StageForecast) -> str:
    """The peak of a stage beside its card, and what most of it is for."""
    of_card = "" if one.card is None else f" of {_size(one.card)}"
    most = f", most of it for {next(iter(one.consumers))} ({one.largest})" if one.consumers else ""
    return f"forecast {memory(one.peak_bytes)}{of_card}{most}"


def _size(card: Card) -> str:
    """What a card has for a run, and what else holds some of its memory, where that is not small."""
    total = card.bytes + card.taken
    return memory(card.bytes) + (f" free of {memory(total)}" if card.taken > SMALL * total else "")


def _verdict(one: StageForecast) -> str:
    if not one.phases:
        return one.verdict
    on = "" if one.card is None else f" on {one.card.name} ({_size(one.card)})"
    own, rest = memory(one.allocated_bytes), memory(one.peak_bytes - one.allocated_bytes)
    parts = f"{own} in {one.largest}, most of it {next(iter(one.consumers))}, and {rest} of CUDA and torch's reserve"
    return f"{one.verdict}{on}, peak {memory(one.peak_bytes)}: {parts}"


def _advice(change: Change | None, one: StageForecast) -> str:
    if change is None:
        card = smallest(one.peak_bytes)
        where = f"it needs a card such as {card.name}" if card else "no card in the list holds it"
        return f"no change of its options fits: {where}; take a smaller base"
    effect = f"   ({change.effect})" if change.effect else "   (the same training)"
    verdict = "uncertain, within the error of the forecast, with" if change.uncertain else "would fit with"
    return f"{verdict}: {' '.join(change.overrides)}{effect}"
