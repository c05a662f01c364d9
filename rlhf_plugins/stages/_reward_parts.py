"""Shows the parts of the reward that judged policies, with intervals. It is no stage itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlhf_plugins.contract.run import Section
from rlhf_plugins.report.words import PARTS, number


def part_sections(policies: Mapping[str, Mapping[str, Any]], reference: str) -> list[Section]:
    """A table with a row for each policy on each part; none where the reward has no parts.

    Args:
        policies: rows of a report, as `report.schema.PolicyReport` has them.
        reference: the name of the one that others are compared with.
    """
    names = dict.fromkeys(name for policy in policies.values() for name in policy["parts"])
    rows = [
        dict(_row(name, who, policy["parts"][name], reference))
        for name in names
        for who, policy in policies.items()
        if name in policy["parts"]
    ]
    text = (
        "Means with 95% intervals over the prompts to which a response has the part; the difference from "
        f"{reference} is paired by prompt. What they count for in the score is in the recipe."
    )
    return [Section(PARTS, text, rows)] if rows else []


def _row(name: str, policy: str, part: Mapping[str, Any], reference: str) -> Iterator[tuple[str, str | int]]:
    yield from (("part", name), ("policy", policy), ("prompts", part["n"]), ("mean", _within(part)))
    if part["gain"] is not None:
        yield f"difference from {reference}", _within(part["gain"])


def _within(found: Mapping[str, float]) -> str:
    return f"{number(found['mean'])} [{number(found['low'])}, {number(found['high'])}]"
