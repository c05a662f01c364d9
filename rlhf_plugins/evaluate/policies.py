"""Samples policies on held-out prompts, and measures the responses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rlhf_plugins.arithmetic.intervals import Interval, mean_interval
from rlhf_plugins.contract.handles import Policy
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.errors import RunError
from rlhf_plugins.evaluate.statistics import (
    distinct,
    normalised,
    paired,
)

ENOUGH = 20  # responses to estimate the coefficient of a control variate from


@dataclass(frozen=True)
class Judged:
    """A policy's samples with their scores, and its KL to the reference in nats a response."""

    samples: Samples  # those of a prompt together
    scores: np.ndarray  # (B,) one a response
    kl: float | Interval | None  # None where it is not known
    elsewhere: np.ndarray | None = None  # scores on out-of-distribution prompts, one a prompt
    line: bool = False  # no policy, but a line to read others against
    perplexity: float | None = None  # of held-out answers
    per_prompt: int = 1  # responses
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)  # of the score by name, (B,), NaN where there is none

    @property
    def means(self) -> np.ndarray:
        """The score of each prompt, (n,)."""
        return by_prompt(self.scores, self.per_prompt)


def by_prompt(values: np.ndarray, per_prompt: int) -> np.ndarray:
    """The mean of each prompt's values that are known, (n,), NaN where none is; `per_prompt` neighbours a prompt."""
    table = values.reshape(-1, per_prompt)
    known = np.isfinite(table)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, table, 0.0).sum(1) / known.sum(1))


def complete(judged: Mapping[str, Judged]) -> tuple[dict[str, Judged], list[int]]:
    """The policies on the prompts to which each has a score, and the places of these prompts.

    Raises:
        RunError: fewer than two prompts are left.
    """
    scored = np.all([np.isfinite(one.means) for one in judged.values()], axis=0)
    places = np.flatnonzero(scored).tolist()
    if len(places) < 2:
        raise RunError(
            f"evaluate: the judge scored the responses of all policies to {len(places)} prompts of {len(scored)}"
        )
    return {name: _at(one, places) for name, one in judged.items()}, places


def _at(judged: Judged, places: list[int]) -> Judged:
    """Some of the prompts with all their responses."""
    rows = [place * judged.per_prompt + which for place in places for which in range(judged.per_prompt)]
    parts = {name: values[rows] for name, values in judged.parts.items()}
    return replace(judged, samples=judged.samples.take(rows), scores=judged.scores[rows], parts=parts)


def best_of(scores: np.ndarray, per_prompt: int, n: int) -> list[int]:
    """For each prompt the row of the best-scored of its first n responses; `per_prompt` rows a prompt.

    A response without a score, NaN, is chosen only where no other has one.
    """
    table = np.where(np.isnan(scores), -np.inf, scores).reshape(-1, per_prompt)[:, :n]
    return [row * per_prompt + int(best) for row, best in enumerate(table.argmax(1))]


def best_of_kl(n: int) -> float:
    """KL of best-of-n to what it samples from, at most log n - (n - 1)/n nats (Stiennon et al. 2020, appendix G.3)."""
    return float(np.log(n) - (n - 1) / n)


def sequence_kls(policy: Policy, reference: Policy, samples: Samples, temperature: float = 1.0) -> np.ndarray:
    """An estimate of KL(policy || reference) of whole responses from each of the policy's own samples, (B,), in nats.

    Both are taken at the temperature that the samples were drawn at.
    """
    own, other = (each.log_probs(samples, temperature=temperature).cpu().double() for each in (policy, reference))
    return controlled((own - other).numpy())


def controlled(log_ratio: np.ndarray) -> np.ndarray:  # (B, T)
    """Estimates of a KL with a small variance, (B,): k1 + c (r - 1) of every token, summed over the response.

    r is pi_ref/pi, whose mean is 1. c = 0 is Schulman's k1 and c = 1 his k3 ("Approximating KL divergence", 2020). c is
    the coefficient of least variance (Owen 2013, "Monte Carlo theory, methods and examples", 8.9) within [0, 1],
    since k3 alone has a heavy tail far from the reference; of too few responses to estimate it, it is 1.

    Args:
        log_ratio: log pi - log pi_ref of tokens that pi sampled, 0 outside the response.
    """
    with np.errstate(over="ignore"):
        plain, control = log_ratio.sum(1), np.expm1(-log_ratio).sum(1)
    if not np.isfinite(control).all():
        return plain
    spread = float(control.var())
    if len(plain) < ENOUGH or spread == 0:
        return plain + control
    away = float(((plain - plain.mean()) * (control - control.mean())).mean())
    return plain + min(max(-away / spread, 0.0), 1.0) * control


def cut_share(samples: Samples, longest: int, ends: Collection[int]) -> float:
    """The share of responses with `longest` tokens of which the last is no end."""
    return float(np.mean([len(ids) >= longest and ids[-1] not in ends for ids in samples.response_ids]))


def measure(
    judged: Judged, reference: Judged, ceiling: float | None, worths: list[Mapping[str, float]]
) -> dict[str, Any]:
    """One policy's row of a report, as `report.schema.PolicyReport` has it."""
    scores, texts = judged.means, list(judged.samples.responses[:: judged.per_prompt])
    dimensions = [name for name in (worths[0] if worths else {}) if name != "total"]
    score = mean_interval(scores)
    base = float(reference.means.mean())
    return {
        "gold": score._asdict(),
        "n": len(scores),
        **({} if judged is reference else paired(scores, reference.means)),
        "normalised": None if ceiling is None else normalised(score.mean, base, ceiling),
        "kl": judged.kl.mean if isinstance(judged.kl, Interval) else judged.kl,
        "kl_interval": judged.kl._asdict() if isinstance(judged.kl, Interval) else None,
        "line": judged.line,
        "perplexity": judged.perplexity,
        "length": float(np.mean([len(ids) for ids in judged.samples.response_ids])),
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "dimensions": {name: float(np.mean([worth[name] for worth in worths])) for name in dimensions},
        "parts": measured_parts(judged, reference),
        "out_of_distribution": None if judged.elsewhere is None else mean_interval(judged.elsewhere)._asdict(),
    }


def measured_parts(judged: Judged, reference: Judged) -> dict[str, dict[str, Any]]:
    """The parts of a policy's score that any of its responses has, as `report.schema.PartReport` has them."""
    found: dict[str, dict[str, Any]] = {}
    for name, values in judged.parts.items():
        own = by_prompt(values, judged.per_prompt)
        known = np.isfinite(own)
        if not known.any():
            continue
        found[name] = {**mean_interval(own[known])._asdict(), "n": int(known.sum()), "gain": None}
        if judged is not reference and name in reference.parts:
            away = own - by_prompt(reference.parts[name], reference.per_prompt)
            both = away[np.isfinite(away)]
            found[name]["gain"] = mean_interval(both)._asdict() if len(both) else None
    return found
