"""Responses with logged rewards as rows of tokens with advantages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import fsum, sqrt
from typing import Any

from datasets import Dataset

from rlhf_plugins.contract.rows import Group
from rlhf_plugins.data.batches.lengths import responses_taken
from rlhf_plugins.data.batches.tokenized import Tokenized
from rlhf_plugins.data.batches.tokens import RowEncoder
from rlhf_plugins.errors import AllEqualError, DataError, nearest

NO_REWARD = "response without a reward"


def advantages(groups: Sequence[Group], dimension: str | None) -> list[list[float | None]]:
    """(R - V) / s of each response of each group; None where it has no reward.

    R is the rating in the dimension, or the mean of its ratings. V is the mean over the rated responses of the group,
    of a single one that over all rows; s is the root mean square of all R - V.

    Raises:
        DataError: no response has a reward, or, as an AllEqualError, all advantages are 0.
    """
    rewards = [[_reward(group, place, dimension) for place in range(len(group.responses))] for group in groups]
    every = [r for row in rewards for r in row if r is not None]
    if not every:
        names = dict.fromkeys(name for group in groups for name in group.ratings)
        what = "a rating" if dimension is None else f"a rating {dimension!r} {nearest(dimension, names)}"
        raise DataError(f"logged rewards: no response has {what}")
    whole, found = fsum(every) / len(every), list[list[float | None]]()
    for row in rewards:
        rated = [r for r in row if r is not None]
        value = fsum(rated) / len(rated) if len(rated) > 1 else whole
        found.append([None if r is None else r - value for r in row])
    scale = sqrt(fsum(a**2 for row in found for a in row if a is not None) / len(every))
    if not scale:
        raise AllEqualError("logged rewards: no response is better or worse than another: there is nothing to learn")
    return [[None if a is None else a / scale for a in row] for row in found]


def logged_rows(groups: Sequence[Group], dimension: str | None, encoder: RowEncoder) -> Tokenized:
    """Rows with the columns `prompt_ids`, `branch_ids` and `advantages`, one for each branch.

    Raises:
        DataError: as `advantages` does, and where no row is left.
    """
    left_out, rows = Counter[str](), list[dict[str, Any]]()
    for group, row in zip(groups, advantages(groups, dimension), strict=True):
        rated = [place for place, advantage in enumerate(row) if advantage is not None]
        left_out[NO_REWARD] += len(row) - len(rated)
        responses = [group.responses[place] for place in rated]
        taken = responses_taken(group.prompt, responses, encoder.encode, encoder.fit, left_out) if rated else None
        if taken and taken[0]:
            kept, tokens = taken
            branches = [list(ids) for ids in tokens.branches]
            own = [row[rated[place]] for place in kept]
            rows.append({"prompt_ids": list(tokens.prompt), "branch_ids": branches, "advantages": own})
    if not rows:
        raise DataError(f"no row is left to learn from ({_listed(left_out.items())})")
    return Tokenized(Dataset.from_list(rows), dict(+left_out))


def _reward(group: Group, place: int, dimension: str | None) -> float | None:
    if dimension is not None:
        return group.ratings[dimension][place] if dimension in group.ratings else None
    given = [values[place] for values in group.ratings.values() if values[place] is not None]
    return fsum(value for value in given if value is not None) / len(given) if given else None


def _listed(reasons: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in reasons if count)
