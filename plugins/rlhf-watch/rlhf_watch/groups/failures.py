"""The worst rows of a reward model, in clusters of alike texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_plugins import DataError

Row = dict[str, Any]
WORDS = 5  # words that name a cluster, at most


@dataclass(frozen=True)
class Cluster:
    """Alike rows, the worst first, and the words that they have more of than the other rows, the most marking first."""

    words: tuple[str, ...]
    rows: tuple[Row, ...]


def worst(rows: Sequence[Row], count: int, by: str = "gap") -> list[Row]:
    """The `count` rows where the number `by`, a name of `BY`, is largest; never rows where it is not above 0.

    Raises DataError where rows do not have what it is computed from.
    """
    number = BY[by]
    return sorted((row for row in rows if number(row) > 0), key=lambda row: -number(row))[:count]


def gap(row: Row) -> float:
    """Reward of the rejected response less that of the chosen one."""
    return float(row["rewards"][1] - row["rewards"][0])


def disagreement(row: Row) -> float:
    """The deviation of an ensemble's members in what they say of the pair, r(chosen) - r(rejected).

    Raises DataError without `members`, where there is only one, or where one has no reward.
    """
    needs = "disagreement needs the `members` of an ensemble, as `rlhf score` writes them"
    try:
        chosen, rejected = np.asarray(row["members"], dtype=float)  # (2, M)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(needs) from error
    if np.size(chosen) < 2 or not np.isfinite(chosen - rejected).all():
        raise DataError(f"{needs}: two or more finite numbers of each response, got {row['members']}")
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
    """k-means on the weighted words of prompt and responses, the largest cluster first; one of rows without words."""
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [" ".join(str(row.get(name, "")) for name in ("prompt", "chosen", "rejected")) for row in rows]
    if not any(re.search(r"\w", text) for text in texts):
        return [Cluster((), tuple(sorted(rows, key=lambda row: -BY[by](row))))]
    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", max_features=5000)
    weights = vectorizer.fit_transform(texts)
    groups = KMeans(min(count, len({*texts})), n_init=4, random_state=seed).fit_predict(weights)
    names = vectorizer.get_feature_names_out()
    found = []
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group).tolist()
        more = _mean(weights[own]) - _mean(weights[np.flatnonzero(groups != group)])
        marks = [place for place in more.argsort()[::-1][:WORDS] if more[place] > 0]
        inside = sorted((rows[place] for place in own), key=lambda row: -BY[by](row))
        found.append(Cluster(tuple(names[marks]), tuple(inside)))
    return sorted(found, key=lambda cluster: -len(cluster.rows))


def _mean(weights: Any) -> Any:
    """The mean over the rows of a sparse matrix (n, words), (words,); 0 where there are no rows."""
    return np.asarray(weights.sum(0))[0] / max(1, weights.shape[0])


def to_collect(row: Row, by: str = "gap") -> Row:
    """A row as `rlhf collect new --prompts` reads it, so that people judge it again."""
    return {"prompt": row["prompt"], "responses": [row["chosen"], row["rejected"]], by: BY[by](row)}
