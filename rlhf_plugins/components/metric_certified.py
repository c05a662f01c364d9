"""Guarantees on a reward model's accuracy that take in what it could have learned from the held-out pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from rlhf_plugins.arithmetic import scored
from rlhf_plugins.arithmetic.pac_bayes import certify
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import Metric

if TYPE_CHECKING:
    from rlhf_plugins.contract.records import ScoredPairs

FEWEST = 8  # pairs, from which the bound holds


@dataclass(frozen=True)
class PACBayes(Metric, under_shift="same"):
    """A lower bound on the accuracy of a randomised reward r(y) + <v, features(y)>, which fails with probability delta.

    PAC-Bayes-kl (Seeger 2002; Maurer 2004) with a prior that depends on the training data: v ~ N(0, sigma^2 I), the
    trained model with noise. The posterior N(v', sigma^2 I) is fitted to these very pairs: unlike `certificate`, it may
    learn from the pairs that certify it, and sigma may be chosen by them. The reward with v' itself is wrong at most
    twice as often as the randomised one. For the model as it was trained, on pairs that nothing was chosen by,
    `certificate` is the tighter bound. One random pair of each prompt counts, prompts being independent draws.
    """

    delta: Annotated[float, Field(gt=0, lt=1, description="probability that the bound does not hold")] = 0.05

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> pac_bayes_lower_bound, _lower_bound_of_the_mean, _accuracy (of the randomised, here), _kl, _sigma, _pairs.

        Nothing for fewer than 8 prompts, and for a reward without features.
        """
        better, worse = pairs.chosen_features, pairs.rejected_features
        one = scored.one_a_prompt(pairs)
        if better is None or worse is None or len(one) < FEWEST:
            return {}
        found = certify(scored.gap(pairs)[one], (better - worse)[one].astype(float), self.delta)
        return {
            "pac_bayes_lower_bound": 1 - found.bound,
            "pac_bayes_lower_bound_of_the_mean": max(0.0, 1 - 2 * found.bound),
            "pac_bayes_accuracy": 1 - found.risk,
            "pac_bayes_kl": found.kl,
            "pac_bayes_sigma": found.sigma,
            "pac_bayes_pairs": float(np.size(one)),
        }


@hookimpl
def register_metric() -> dict[str, type]:
    """The bundled metric of this file."""
    return {"pac_bayes": PACBayes}
