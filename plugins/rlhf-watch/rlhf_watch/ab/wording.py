"""Comparisons in words: a sentence for who decides, the numbers for who checks. It computes nothing but sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import ceil, isfinite
from typing import Any

from rlhf_watch.ab.comparison import Comparison
from rlhf_watch.ab.power import power_for_win_rate, size_for_win_rate, smallest_win_rate
from rlhf_watch.groups.reading import table


def lines(found: Sequence[Comparison]) -> Iterator[str]:
    """Everything that is printed."""
    for one in found:
        yield sentence(one)
        yield from (f"  {line}" for line in _numbers(one, len(found)))


def sentence(one: Comparison) -> str:
    """The result without a term of statistics."""
    within = one.at_every_look if one.looks else one.win_rate
    rate, low, high = (f"{100 * value:.1f}%" for value in (one.counts.win_rate, *within))
    ways = f"by all evidence of {one.looks} looks, without ties" if one.looks else "by all evidence"
    measured = f"it is preferred on {rate} of {one.counts.prompts} prompts, {ways} between {low} and {high}"
    if one.better is None:
        return f"{one.name}: no difference from {one.baseline} is shown; {measured}. {_needed(one)}"
    word = "better" if one.better else "worse"
    return f"{one.name} is {word} than {one.baseline}: {measured}, where 50% is no difference."


def _needed(one: Comparison) -> str:
    ties = one.counts.tied / one.counts.prompts
    needed = size_for_win_rate(one.counts.win_rate, ties=ties)
    seen = f"These prompts show a win rate of {100 * one.smallest:.1f}% or more"
    if one.smallest >= 1 - ties / 2:
        seen = "So few decided prompts can show no win rate"
    if needed > 1e6:
        return f"{seen}; what was measured is as good as none."
    return f"{seen}; one of {100 * one.counts.win_rate:.1f}% needs about {ceil(needed)} prompts."


def _numbers(one: Comparison, compared: int) -> Iterator[str]:
    counts = one.counts
    yield (
        f"win rate {counts.win_rate:.3f} [{one.win_rate.low:.3f}, {one.win_rate.high:.3f}]: "
        f"{counts.won} won, {counts.tied} tied, {counts.lost} lost"
    )
    sign, mean = (
        f", Holm of {compared} comparisons {p:.2g}" if compared > 1 else ""
        for p in (one.holm_p, one.permutation_holm_p)
    )
    yield f"sign test p {one.sign_p:.2g}{sign}; permutation test of the mean p {one.permutation_p:.2g}{mean}"
    low, high = one.difference_interval
    within = f"[{low:.3g}, {high:.3g}], {one.effect:+.2f} deviations" if low == low else "of one prompt"
    yield f"mean difference {one.difference:+.3g} {within}"
    when = f"decided after {one.decided_after} prompts" if one.decided_after else "not decided"
    closed = f", {one.closed_evidence:.3g} by closed means of {compared} comparisons" if compared > 1 else ""
    yield f"sequential test: e-value {one.evidence:.3g}{closed}; p {one.anytime_p:.2g} at any look, {when}"
    low, high = one.at_every_look
    yield f"win rate without ties, at every look in [{low:.3f}, {high:.3f}]"
    if one.length is None:
        yield "win rate at equal length: not known, there are no responses beside the scores"
    else:
        yield f"win rate at equal length {one.length.win_rate:.3f} [{one.length.low:.3f}, {one.length.high:.3f}]"
    if not one.judge:
        yield "the judge is not known: see that one judge scored both"
    else:
        yield f"judge: {one.judge}"
    if one.merged:
        yield f"conversations count once: {one.merged} further prompts of them are in their means, or left out"
    if one.left_out:
        yield f"left out: {one.left_out} prompts that only one of them answered"
    if one.groups:
        yield from table("win rate", one.groups, "prompts")
        behind = one.groups.behind
        shown = "is behind the others" if one.groups.p <= 0.05 else "is the furthest behind, which chance makes too"
        yield f"{behind.name} {shown}, by {-behind.gap:.1%} (p {one.groups.p:.2g})"


def plan(rate: float | None, prompts: int | None, power: float) -> Iterator[str]:
    """What a comparison needs or can show, before anything is judged, at 5% two-sided and without ties."""
    if rate is not None:
        needed = size_for_win_rate(rate, power)
        yield f"a win rate of {rate:g} against 0.5 needs {_rounded(needed)} prompts for power {power:g}"
    if prompts is not None:
        smallest = smallest_win_rate(prompts, power)
        shown = f"win rates above {smallest:.3f} or below {1 - smallest:.3f}" if smallest < 1 else "no win rate"
        yield f"{prompts} prompts show {shown} with power {power:g}"
    if rate is not None and prompts is not None:
        chance = power_for_win_rate(prompts, rate)
        yield f"{prompts} prompts tell a win rate of {rate:g} from 0.5 with power {chance:.3f}"


def _rounded(number: float) -> str:
    return "infinitely many" if number == float("inf") else str(ceil(number))


def record(one: Comparison) -> dict[str, Any]:
    """Returns the comparison as a dictionary for JSON; None for a number that is not finite, which JSON cannot hold."""
    parts = ("counts", "win_rate", "difference_interval", "at_every_look", "length")
    named = {name: value._asdict() for name in parts if (value := getattr(one, name)) is not None}
    whole = {**asdict(one), **named, "rate": one.counts.win_rate, "better": one.better, "sentence": sentence(one)}
    found: dict[str, Any] = _finite(whole)
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value
