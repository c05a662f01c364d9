"""Groups as the data set of pairs that TRL's trainers read."""

from __future__ import annotations

from collections.abc import Iterable

from datasets import Dataset

from rlhf_plugins.contract.rows import Group
from rlhf_plugins.data.batches.groups import pair_rows


def preference_dataset(groups: Iterable[Group]) -> Dataset:
    """Pairs with the columns of `pair_rows`. Raises DataError as it does."""
    return Dataset.from_list(pair_rows(groups))
