"""Which texts are good and unlike each other, chosen one by one."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
from scipy.stats import rankdata

from rlhf_plugins.errors import DataError


def ranked(values: Sequence[float]) -> np.ndarray:  # (n,)
    """Each value's place from 0, the lowest, to 1; equal values share the mean of their places."""
    return (rankdata(values) - 1) / max(1, len(values) - 1)


def vectors(texts: Sequence[str]) -> Any:  # (n, words), sparse, of length 1
    """TF-IDF of words; a text without any is 0. Raises DataError where no text has one."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not any(any(map(str.isalnum, text)) for text in texts):
        raise DataError("no row has a word, so that none differs from another")
    return TfidfVectorizer(token_pattern=r"\w+").fit_transform(texts).tocsr()


def chosen(rows: Any, quality: np.ndarray, count: int, weight: float) -> list[int]:
    """Greedily the i with the greatest weight q_i + (1 - weight) (1 - max cos(i, j)), j over those chosen before.

    A number only falls as more are chosen, so that one is computed again only when it comes first (Minoux 1978).

    Args:
        rows: (n, words) vectors of length 1, sparse.
        quality: (n,) q, from 0 to 1.
        count: how many to choose.
        weight: the weight of quality, from 0 to 1.
    """
    nearest = np.zeros(rows.shape[0])

    def entry(i: int, seen: int) -> tuple[float, int, int]:
        return -(weight * quality[i] + (1 - weight) * (1 - nearest[i])), i, seen

    heap = [entry(i, 0) for i in range(rows.shape[0])]
    heapify(heap)
    found: list[int] = []
    while heap and len(found) < count:
        _, i, seen = heappop(heap)
        if seen == len(found):
            found.append(i)
            continue
        cosine = (rows[found[seen:]] @ rows[[i]].T).toarray()
        nearest[i] = max(nearest[i], float(cosine.max()))
        heappush(heap, entry(i, len(found)))
    return found
