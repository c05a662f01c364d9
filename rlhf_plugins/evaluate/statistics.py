"""How scores compare on the same prompts, and shares of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_plugins.arithmetic.intervals import mean_interval, share_interval
from rlhf_plugins.arithmetic.p_values import sign_test
from rlhf_plugins.arithmetic.scored import larger
from rlhf_plugins.errors import RunError


def finite(scores: Sequence[float], what: str) -> np.ndarray:
    """The scores as an array, (n,). Raises RunError when one is NaN or infinite: a comparison would hide it."""
    found = np.array(scores, dtype=float)
    if bad := int((~np.isfinite(found)).sum()):
        raise RunError(f"{bad} of {len(found)} {what}s are not finite numbers")
    return found


def paired(scores: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """How scores compare with a reference's on the same prompts, both (n,), as `report.schema.PolicyReport` has it."""
    return {
        "gain": mean_interval(scores - reference)._asdict(),
        "win_rate": share_interval(larger(scores, reference))._asdict(),
        "win_p_value": sign_test(int((scores > reference).sum()), int((scores < reference).sum())),
    }


def normalised(score: float, reference: float, ceiling: float) -> float:
    """100 (score - reference) / (ceiling - reference): 0 is the reference, 100 the ceiling; NaN if equal."""
    return 100 * (score - reference) / (ceiling - reference) if ceiling != reference else float("nan")


def distinct(texts: list[str], n: int) -> float:
    """The share of different n-grams among all n-grams of words (Li et al. 2016); 0 where there are none."""
    grams = [tuple(words[i : i + n]) for words in (t.split() for t in texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
