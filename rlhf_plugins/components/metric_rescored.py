"""Measures of a reward model that have it score the held-out pairs again: what changes when the texts do, and speed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field
from scipy import stats

from rlhf_plugins.arithmetic import scored
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import Metric
from rlhf_plugins.data.changes.rewrites import HARMLESS, doubled, dropped, swapped

if TYPE_CHECKING:
    from rlhf_plugins.contract.records import ScoredPairs


@dataclass(frozen=True)
class Consistency(Metric):
    """What harmless rewrites of every response change: the share of pairs that keep their order, and Spearman's rho of
    the rewards before and after.

    The rewrites: a space at the end, doubled spaces, a final full stop put or taken, the first letter's case turned.
    Each scores the pairs once more.
    """

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> consistency (mean share), consistency_<rewrite> (share), consistency_<rewrite>_spearman."""
        if pairs.again is None:
            return {}
        again = {name: pairs.again(rewrite) for name, rewrite in HARMLESS.items()}
        kept = {
            name: float(np.mean(np.sign(scored.gap(new)) == np.sign(scored.gap(pairs)))) for name, new in again.items()
        }
        before = np.r_[pairs.chosen, pairs.rejected]
        found = {"consistency": float(np.mean([*kept.values()]))}
        for name, new in again.items():
            found[f"consistency_{name}"] = kept[name]
            after = np.r_[new.chosen, new.rejected]
            if not scored.constant(before) and not scored.constant(after):
                found[f"consistency_{name}_spearman"] = float(stats.spearmanr(before, after).statistic)
        return found


@dataclass(frozen=True)
class Robustness(Metric):
    """Accuracy after random words of every response were dropped, swapped with the next one, or said twice.

    Each of the three scores the pairs once more.
    """

    rate: Annotated[float, Field(gt=0, le=1, description="share of words that are changed")] = 0.1

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> robustness_dropped, robustness_swapped, robustness_doubled."""
        if pairs.again is None:
            return {}
        changes = {"dropped": dropped, "swapped": swapped, "doubled": doubled}
        again = {name: pairs.again(partial(change, rate=self.rate)) for name, change in changes.items()}
        return {f"robustness_{name}": float(scored.right(new).mean()) for name, new in again.items()}


@dataclass(frozen=True)
class Speed(Metric, reads_clock=True):
    """Pairs, and response tokens in them, that are scored in a second.

    The pairs are scored once more as they are and the clock is read, tokenisation included. Neighbours that share a
    prompt share its computation, and a response that is in several pairs is scored once, so that rankings look faster
    than pairs; other work on the machine counts.
    """

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> speed_pairs_per_second, speed_tokens_per_second."""
        if pairs.again is None:
            return {}
        began = time.perf_counter()
        pairs.again(lambda text, rng: text)
        seconds = time.perf_counter() - began
        tokens = scored.responses(pairs)[1].sum()
        return {"speed_pairs_per_second": len(pairs.chosen) / seconds, "speed_tokens_per_second": tokens / seconds}


@hookimpl
def register_metric() -> dict[str, type]:
    """The bundled metrics that score again."""
    return {"consistency": Consistency, "robustness": Robustness, "speed": Speed}
