"""Are two sets of texts alike? A classifier that tells unseen ones apart says no."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from rlhf_plugins import DataError

SHOWN = 8  # words that mark the second set most
FEWEST = 20  # different texts of each


@dataclass(frozen=True)
class TwoSampleTest:
    """How well a classifier distinguishes held-out texts of two sets.

    Args:
        accuracy: the accuracy of held-out texts, half of each set; 1/2 is chance.
        p: the probability that chance alone does so well or better.
        texts: held out.
        words: the words that mark the second set, the strongest first.
    """

    accuracy: float
    p: float
    texts: int
    words: tuple[str, ...]


def classifier_test(ours: Sequence[str], theirs: Sequence[str], seed: int = 0) -> TwoSampleTest:
    """The classifier two-sample test (Lopez-Paz and Oquab 2017) by logistic regression on weighted words.

    Texts are counted once, and as many are drawn from each set. Half of them train, the other half tests: where
    the sets are alike its hits vary as a binomial with 1/2 or less, so that the p-value is never too small. Raises
    DataError for too few texts.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    both = [sorted(set(texts)) for texts in (ours, theirs)]
    count = min(map(len, both)) // 2 * 2
    if count < FEWEST:
        raise DataError(f"{FEWEST} different texts of each are needed, got {len(both[0])} and {len(both[1])}")
    drawn = [[texts[i] for i in rng.permutation(len(texts))[:count]] for texts in both]
    half = count // 2
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", max_features=20_000)
    fitted = words.fit_transform(drawn[0][:half] + drawn[1][:half])
    model = LogisticRegression(max_iter=1000).fit(fitted, np.repeat([0, 1], half))
    guesses = model.predict(words.transform(drawn[0][half:] + drawn[1][half:]))
    hits = int((guesses == np.repeat([0, 1], half)).sum())
    strongest = model.coef_[0].argsort()[::-1][:SHOWN]
    p = binomtest(hits, count, alternative="greater").pvalue
    return TwoSampleTest(hits / count, float(p), count, tuple(words.get_feature_names_out()[strongest]))
