"""The worst rows of a reward model, in clusters of alike texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_plugins import DataError

Row = dict[str, Any]
WORDS = 5  # that name a cluster


@dataclass(frozen=True)
class Cluster:
    """Alike rows, the worst first, and the words that mark them."""

    words: tuple[str, ...]
    rows: tuple[Row, ...]


def worst(rows: Sequence[Row], count: int, by: str = "gap") -> list[Row]:
    """Those with the largest number of `BY`; rows where it is not above 0 never.

    Raises DataError where rows do not have what it is computed from.
    """
    number = BY[by]
    return sorted((row for row in rows if number(row) > 0), key=lambda row: -number(row))[:count]


def gap(row: Row) -> float:
    """Reward of the rejected response less that of the chosen one."""
    return float(row["rewards"][1] - row["rewards"][0])


def disagreement(row: Row) -> float:
    """The deviation of an ensemble's members in what they say of the pair, r(chosen) - r(rejected).

    Raises DataError without `members`, or where one has no reward.
    """
    try:
        chosen, rejected = np.asarray(row["members"], dtype=float)  # (2, M)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("disagreement needs the `members` of an ensemble, as `rlhf score` writes them") from error
    return float((chosen - rejected).std(ddof=1))


def length(row: Row) -> float:
    """By how many words the response with the larger reward is the longer one."""
    try:
        chosen, rejected = (len(str(row[name]).split()) for name in ("chosen", "rejected"))
    except KeyError as error:
        raise DataError(f"length needs the column {error}") from error
    return float(np.sign(gap(row)) * (rejected - chosen))


BY: Mapping[str, Callable[[Row], float]] = {"gap": gap, "disagreement": disagreement, "length": length}


def clustered(rows: Sequence[Row], count: int, by: str = "gap", seed: int = 0) -> list[Cluster]:
    """k-means on the weighted words of prompt and responses, the largest cluster first."""
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [" ".join(str(row.get(name, "")) for name in ("prompt", "chosen", "rejected")) for row in rows]
    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", max_features=5000)
    weights = vectorizer.fit_transform(texts)
    groups = KMeans(min(count, len({*texts})), n_init=4, random_state=seed).fit_predict(weights)
    names, mean = vectorizer.get_feature_names_out(), np.asarray(weights.mean(0))[0]
    found = []
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group).tolist()
        marks = (np.asarray(weights[own].mean(0))[0] - mean).argsort()[::-1][:WORDS]
        inside = sorted((rows[place] for place in own), key=lambda row: -BY[by](row))
        found.append(Cluster(tuple(names[marks]), tuple(inside)))
    return sorted(found, key=lambda cluster: -len(cluster.rows))


def to_collect(row: Row, by: str = "gap") -> Row:
    """A row as `rlhf collect new --prompts` reads it, so that people judge it again."""
    return {"prompt": row["prompt"], "responses": [row["chosen"], row["rejected"]], by: BY[by](row)}
