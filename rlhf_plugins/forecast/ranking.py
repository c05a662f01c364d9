"""The answer of a selector beside the cost of each algorithm; one that a run would refuse is not asked about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rlhf_plugins.contract.selection import Choice, Situation

if TYPE_CHECKING:
    from rlhf_plugins.forecast.costs import Costs


def ranked(
    judge: Callable[[Situation], Sequence[Choice]], situation: Situation, costs: Mapping[str, Costs]
) -> list[Choice]:
    """Every algorithm once, with its cost; whatever the selector, one that a run would refuse is impossible.

    Args:
        judge: the selector.
        situation: without costs.
        costs: the costs of each of its algorithms.
    """
    sound = tuple(name for name in situation.algorithms if not costs[name].refused)
    known = {name: costs[name].known for name in sound}
    choices = judge(replace(situation, algorithms=sound, costs=known)) if sound else ()
    refused = [
        Choice(name, tuple(f"cannot: {why}" for why in costs[name].refused), possible=False)
        for name in situation.algorithms
        if name not in sound
    ]
    return [replace(one, cost={**costs[one.algorithm].known, **one.cost}) for one in (*choices, *refused)]
