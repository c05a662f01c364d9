"""TRL's rows, two lists of tokens each, as rows of a reward trainer. It knows token ids, no model and no loss."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from rlhf_plugins.data.numeric import PREFIX
from rlhf_plugins.trainers.draws import Examples

COLUMNS = ("chosen_ids", "rejected_ids", "margin", "weight", "probability", "difficulty", "topic", "row")
TOO_LONG, TOO_SHORT = "longer than max_length", "of one token"


@dataclass(frozen=True)
class Pairs:
    """Reads TRL's rows.

    Args:
        own: read our columns `weight` and `probability` too, which TRL ignores.
        columns: numeric columns that a loss or a head reads.
    """

    own: bool = False
    columns: Collection[str] = ()

    def __call__(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row as `ranked_rows` makes them; one that is such a row already stays as it is."""
        if "branch_ids" in row:
            return row
        chosen, rejected = row["chosen_ids"], row["rejected_ids"]
        shared = shared_tokens(chosen, rejected)
        margin = float(row.get("margin") or 0.0)
        weight, probability = (_number(row.get(name)) if self.own else 1.0 for name in ("weight", "probability"))
        return {
            "prompt_ids": chosen[:shared],
            "branch_ids": [chosen[shared:], rejected[shared:]],
            "ranks": [0, 1],
            "margin": margin,
            "weight": weight,
            "compared": [[0.0, 1.0, 0.0, margin, weight, probability]],
            "ratings": [[], []],
            "row": row.get("row", 0),
            "topic": 0,
            **{PREFIX + name: row[name] for name in sorted(self.columns)},
        }


def examples(rows: Any) -> Examples:
    """What a sampler may know of the rows of a data set, ours or TRL's."""
    names = rows.column_names
    topic, difficulty = (rows[name][:] if name in names else [None] * len(rows) for name in ("topic", "difficulty"))
    if "length" in names:
        return Examples(rows["length"][:], difficulty, topic)
    pairs = zip(rows["chosen_ids"], rows["rejected_ids"], strict=True)
    return Examples(
        [len(chosen) + len(rejected) - shared_tokens(chosen, rejected) for chosen, rejected in pairs], difficulty, topic
    )


def shared_tokens(chosen: Sequence[int], rejected: Sequence[int]) -> int:
    """Tokens with which both begin, but for the last one of either."""
    pairs = zip(chosen[:-1], rejected[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _number(value: float | None) -> float:
    return 1.0 if value is None else float(value)
