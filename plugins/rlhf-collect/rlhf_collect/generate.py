"""Answers to prompts from policies, and worse ones on purpose; what nobody should be shown is left out and counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from rlhf_collect.store.rows import Asked, Written
from rlhf_plugins import DataError, load_policy

NEGATIVES = ("hot", "truncated")
HOT = 1.8  # temperature
REFUSED = re.compile(r"(?i)^(i'?m sorry|sorry|i can(no|')t|i am unable|as an ai)\b")


@dataclass(frozen=True)
class Plan:
    """Who answers, and how. Raises DataError where it cannot be followed."""

    policies: tuple[str, ...]  # folders of policies, `RUN#STAGE`
    temperatures: tuple[float, ...] = (1.0,)
    each: int = 1  # answers of a policy at a temperature
    longest: int = 128  # tokens
    negatives: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := set(self.negatives) - set(NEGATIVES):
            raise DataError(f"unknown negative {sorted(unknown)[0]!r} (known: {', '.join(NEGATIVES)})")
        if not all(temperature > 0 for temperature in self.temperatures) or self.each < 1:
            raise DataError("temperatures should be above 0, and each policy should give at least one answer")


def answered(rows: Iterable[Asked], plan: Plan, left_out: Counter[str]) -> Iterator[Asked]:
    """The rows with the answers of the plan after their own."""
    rows = list(rows)
    found: list[list[Written]] = [[] for _ in rows]
    for number, name in enumerate(plan.policies):
        with load_policy(name) as policy:
            for temperature in plan.temperatures:
                _sample(policy, rows, found, plan, {"policy": name, "temperature": temperature})
            if "hot" in plan.negatives and number == 0:
                _sample(
                    policy, rows, found, replace(plan, each=1), {"policy": name, "temperature": HOT, "negative": "hot"}
                )
    for row, written in zip(rows, found, strict=True):
        if "truncated" in plan.negatives and written:
            written.append(_truncated(written[0]))
        kept = [one for one in written if not _useless(one.text, left_out)]
        yield replace(row, answers=(*row.answers, *kept))


def _sample(policy: Any, rows: list[Asked], found: list[list[Written]], plan: Plan, origin: dict[str, Any]) -> None:
    samples = policy.sample(
        [row.prompt for row in rows],
        plan.each,
        temperature=origin["temperature"],
        max_new_tokens=plan.longest,
        seed=plan.seed + len(found[0]) if found else plan.seed,
    )
    for place, text in enumerate(samples.responses):
        found[place // plan.each].append(Written(text.strip(), dict(origin)))


def _truncated(one: Written) -> Written:
    words = one.text.split(" ")
    return Written(" ".join(words[: max(1, len(words) // 2)]), {**one.origin, "negative": "truncated"})


def _useless(text: str, left_out: Counter[str]) -> bool:
    reason = "empty answers" if not text.strip() else "refusals" if REFUSED.match(text) else ""
    left_out[reason] += bool(reason)
    return bool(reason)
