"""The rows on which a reward model fails most, in clusters of alike texts. It knows rows and their rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = dict[str, Any]
WORDS = 5  # that name a cluster


@dataclass(frozen=True)
class Cluster:
    """Alike rows, the worst first, and the words that mark them."""

    words: tuple[str, ...]
    rows: tuple[Row, ...]


def worst(rows: Sequence[Row], count: int) -> list[Row]:
    """Those whose rejected response has the largest reward beyond the chosen one's; rows in the right order never."""
    wrong = [row for row in rows if gap(row) > 0]
    return sorted(wrong, key=lambda row: -gap(row))[:count]


def gap(row: Row) -> float:
    """Reward of the rejected response less that of the chosen one."""
    return float(row["rewards"][1] - row["rewards"][0])


def clustered(rows: Sequence[Row], count: int, seed: int = 0) -> list[Cluster]:
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
        inside = sorted((rows[place] for place in own), key=lambda row: -gap(row))
        found.append(Cluster(tuple(names[marks]), tuple(inside)))
    return sorted(found, key=lambda cluster: -len(cluster.rows))


def to_collect(row: Row) -> Row:
    """A row as `rlhf collect new --prompts` reads it, so that people judge it again."""
    return {"prompt": row["prompt"], "responses": [row["chosen"], row["rejected"]], "gap": gap(row)}
