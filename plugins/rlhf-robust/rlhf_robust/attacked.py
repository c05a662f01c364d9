"""The metric `attacked`: accuracy where the worse response of every pair is changed to please the model, in vain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from rlhf_plugins import Metric, ScoredPairs, hookimpl
from rlhf_robust.changes import CHANGES, Change


@dataclass(frozen=True)
class Attacked(Metric, under_shift="same"):
    """Accuracy where the rejected response is the worst, for the model, of itself and of its changed versions.

    Each version is padded, repeats a sentence, or has two words out of order, which makes a response no better, so that
    the pair keeps its label; a model that is fooled by one gives it more than the chosen response. Only the rejected
    response is changed. The pairs are scored once more for every draw of every change.
    """

    draws: Annotated[int, Field(ge=1, description="versions by each of the three changes")] = 4

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> attacked_accuracy, attacked_<change> (by it alone); nothing where pairs cannot be scored again."""
        if pairs.again is None:
            return {}
        found, worst = {}, pairs.rejected
        for name, change in CHANGES.items():
            by_one = pairs.rejected
            for draw in range(self.draws):
                by_one = np.maximum(by_one, pairs.again(_drawn(change, draw)).rejected)
            found[f"attacked_{name}"] = _accuracy(pairs.chosen, by_one)
            worst = np.maximum(worst, by_one)
        return {"attacked_accuracy": _accuracy(pairs.chosen, worst), **found}


def _drawn(change: Change, seed: int) -> Change:
    """The change with draws of its own, since pairs that are scored again have the same draws every time."""
    own = np.random.default_rng(seed)
    return lambda text, rng: change(text, own)


def _accuracy(chosen: np.ndarray, rejected: np.ndarray) -> float:
    """A tie counts one half."""
    return float(np.where(chosen == rejected, 0.5, chosen > rejected).mean())


@hookimpl
def register_metric() -> dict[str, type]:
    """The metric of this file."""
    return {"attacked": Attacked}
