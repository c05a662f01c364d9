"""Measures of a reward model on held-out pairs: arithmetic on arrays of rewards, and harmless changes of texts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
from pydantic import Field
from scipy import optimize, stats
from scipy.special import expit

from rlhf_plugins.data.rewrites import HARMLESS, doubled, dropped, swapped
from rlhf_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from rlhf_plugins.interfaces import ScoredPairs

Bins = Annotated[int, Field(ge=1, description="equal-width bins of p over [0, 1]")]
MANY = 2000  # prompts above which BCa, whose jackknife is quadratic, is slow and corrects next to nothing
MATCHED = 0.1  # lengths that differ by less than this share of the longer one
FARTHEST = 7.0  # how far from the mean gap a temperature is looked for, as a natural logarithm


@dataclass(frozen=True)
class Accuracy:
    """The share of pairs whose chosen response has the higher reward, a tie counting one half.

    Its 95% interval is a bootstrap (Efron 1987, BCa; of more than 2000 prompts the percentiles) that draws prompts, not
    pairs: pairs of one prompt share responses, so they say less than as many pairs of different prompts (Field and
    Welsh 2007, the cluster bootstrap). Beside it stands what always preferring the longer response would score.
    """

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> accuracy, accuracy_low, accuracy_high, accuracy_longer_response."""
        right = _right(pairs)
        low, high = _interval(right, _prompts(pairs))
        longer = float(_larger(pairs.chosen_length, pairs.rejected_length).mean())
        interval = {"accuracy_low": low, "accuracy_high": high}
        return {"accuracy": float(right.mean()), **interval, "accuracy_longer_response": longer}


def _interval(right: np.ndarray, prompts: np.ndarray) -> tuple[float, float]:
    """Both bounds equal the mean where all prompts agree, or there is but one."""
    counts, sums = np.bincount(prompts), np.bincount(prompts, right)  # (prompts,)
    if np.ptp(sums / counts) == 0:
        return float(right.mean()), float(right.mean())

    def mean(right: np.ndarray, pairs: np.ndarray, axis: int = -1) -> np.ndarray:
        return right.sum(axis) / pairs.sum(axis)

    method = "BCa" if len(counts) <= MANY else "percentile"
    options = {"n_resamples": 2000, "batch": 256, "rng": np.random.default_rng(0)}
    found = stats.bootstrap((sums, counts), mean, paired=True, method=method, **options).confidence_interval
    return float(found.low), float(found.high)


class CalibrationErrors(NamedTuple):
    """Gaps between the predicted and the observed over bins: their weighted mean, root mean square and largest."""

    expected: float
    root_mean_square: float
    maximum: float


def calibration_errors(p: np.ndarray, happened: np.ndarray, bins: int) -> CalibrationErrors:
    """L1, L2 and maximum norm of |happened(b) - p(b)| over equal-width bins b of [0, 1] (Naeini et al. 2015).

    Args:
        p: (n,) predicted probabilities.
        happened: (n,) 1 where what was predicted happened, else 0.
        bins: how many; empty ones count nothing.
    """
    bin_of = np.minimum((p * bins).astype(int), bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    share = counts[counts > 0] / len(p)
    gap = np.abs(np.bincount(bin_of, happened - p, minlength=bins)[counts > 0]) / len(p) / share
    return CalibrationErrors(float(share @ gap), float(np.sqrt(share @ gap**2)), float(gap.max()))


@dataclass(frozen=True)
class Calibration:
    """Calibration of p = sigmoid(r_a - r_b) as the probability that people prefer a to b.

    Each pair is read both ways round, since which response came first is arbitrary. ECE = sum_b |b|/n |preferred(b) -
    p(b)| over equal-width bins, MCE is the largest of these gaps (Naeini et al. 2015), and Brier's score is the mean of
    (preferred - p)^2 (Brier 1950).
    """

    bins: Bins = 10

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> calibration_ece, calibration_mce, calibration_brier."""
        p, preferred = _both_ways(_gap(pairs))
        errors = calibration_errors(p, preferred, self.bins)
        found = {"calibration_ece": errors.expected, "calibration_mce": errors.maximum}
        return {**found, "calibration_brier": float(np.mean((p - preferred) ** 2))}


@dataclass(frozen=True)
class TemperatureScaling:
    """The T that makes people's choices most likely under sigmoid((r_a - r_b) / T) (Guo et al. 2017, section 4.2).

    T is fitted on the pairs of a random half of the prompts; ECE before and after is of the pairs of the other half.
    """

    bins: Bins = 10
    seed: Annotated[int, Field(ge=0, description="of the split by prompt")] = 0

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> temperature_scaling_temperature, _ece_before, _ece_after; nothing of one prompt, or of equal rewards."""
        gap, prompts = _gap(pairs), _prompts(pairs)
        order = np.random.default_rng(self.seed).permutation(prompts.max() + 1)
        fitted = np.isin(prompts, order[: len(order) // 2])
        if not gap[fitted].any():
            return {}
        temperature, rest = best_temperature(gap[fitted]), gap[~fitted]
        before, after = (calibration_errors(*_both_ways(g), self.bins).expected for g in (rest, rest / temperature))
        return {
            "temperature_scaling_temperature": temperature,
            "temperature_scaling_ece_before": before,
            "temperature_scaling_ece_after": after,
        }


def best_temperature(gap: np.ndarray) -> float:
    """T > 0 that minimises the mean of -log sigmoid(gap / T); gap is (n,), chosen less rejected, not all 0.

    It is looked for within a factor of e^7 of the mean |gap|: without errors no T is small enough, with half of the
    pairs wrong none is large enough, and the end of that range is the answer.
    """
    scale = float(np.abs(gap).mean())

    def loss(log_t: float) -> float:
        return float(np.logaddexp(0, -gap / scale * np.exp(-log_t)).mean())

    return scale * float(np.exp(optimize.minimize_scalar(loss, bounds=(-FARTHEST, FARTHEST), method="bounded").x))


@dataclass(frozen=True)
class CrossEntropy:
    """The mean of -log sigmoid(r_chosen - r_rejected), in nats: Bradley-Terry's loss on held-out pairs."""

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> cross_entropy."""
        return {"cross_entropy": float(np.logaddexp(0, -_gap(pairs)).mean())}


@dataclass(frozen=True)
class AUC:
    """Area under the ROC curve of r_a - r_b as a classifier of which response people prefer, each pair both ways round.

    `auc_responses` tears the pairs apart: the probability that a random chosen response has a higher reward than a
    random rejected one, of whatever prompts.
    """

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> auc, auc_responses."""
        gap, preferred = _gap(pairs), np.repeat([True, False], len(pairs.chosen))
        apart = _auroc(preferred, np.concatenate([pairs.chosen, pairs.rejected]))
        return {"auc": _auroc(preferred, np.concatenate([gap, -gap])), "auc_responses": apart}


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho and Kendall's tau-b of reward with gold reward, or else with people's mean rating.

    Each held-out response counts once, however many pairs it is in.
    """

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> rank_correlation_spearman, rank_correlation_kendall; nothing where neither truth is known, or all tie."""
        chosen, rejected = pairs.chosen_gold, pairs.rejected_gold
        if chosen is None or rejected is None:
            chosen, rejected = pairs.chosen_rating, pairs.rejected_rating
        if chosen is None or rejected is None:
            return {}
        reward, _, truth = _responses(pairs, np.concatenate([chosen, rejected]))
        if _constant(reward) or _constant(truth):
            return {}
        return {
            "rank_correlation_spearman": float(stats.spearmanr(reward, truth).statistic),
            "rank_correlation_kendall": float(stats.kendalltau(reward, truth).statistic),
        }


@dataclass(frozen=True)
class AccuracyByTopic:
    """Accuracy on the pairs of each topic, and on the worst of them; pairs without a topic are left out."""

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> accuracy_by_topic_worst, accuracy_by_topic/<topic>; nothing where no pair has a topic."""
        topics = np.array([] if pairs.topic is None else pairs.topic, dtype=str)
        right = _right(pairs)
        found = {str(topic): float(right[topics == topic].mean()) for topic in np.unique(topics) if topic}
        named = {f"accuracy_by_topic/{_printable(topic)}": share for topic, share in found.items()}
        return {"accuracy_by_topic_worst": min(found.values()), **named} if found else {}


@dataclass(frozen=True)
class LengthBias:
    """How far reward follows response length.

    Spearman's rho of reward with length over all held-out responses, each once; accuracy on the pairs whose lengths
    differ by less than a tenth of the longer, where length cannot help; and accuracy on the pairs whose chosen response
    is the shorter, where it misleads. Each accuracy stands beside the number of its pairs.
    """

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> length_bias, length_bias_matched, length_bias_shorter, and _pairs of both; without what has no pair."""
        reward, length, _ = _responses(pairs)
        chosen, rejected, right = pairs.chosen_length, pairs.rejected_length, _right(pairs)
        parts = {
            "matched": np.abs(chosen - rejected) < MATCHED * np.maximum(chosen, rejected),
            "shorter": chosen < rejected,
        }
        found = {} if _constant(reward) or _constant(length) else {"length_bias": stats.spearmanr(reward, length)[0]}
        for name, part in parts.items():
            if part.any():
                found |= {f"length_bias_{name}": right[part].mean(), f"length_bias_{name}_pairs": part.sum()}
        return {name: float(value) for name, value in found.items()}


@dataclass(frozen=True)
class Uncertainty:
    """How well the model's doubt finds its own errors: AUROC over pairs, an error being the positive class.

    Doubt is the variance that the head predicts for the gap, the sum of the two responses' variances; or, for every
    head, how small |r_chosen - r_rejected| is. Pairs with equal rewards are left out.
    """

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> uncertainty_auroc_variance, uncertainty_auroc_gap; nothing where the model errs on no pair, or on all."""
        gap = _gap(pairs)
        kept, wrong = gap != 0, gap < 0
        if len(np.unique(wrong[kept])) < 2:
            return {}
        found = {"uncertainty_auroc_gap": _auroc(wrong[kept], -np.abs(gap[kept]))}
        if pairs.chosen_variance is None or pairs.rejected_variance is None:
            return found
        variance = pairs.chosen_variance + pairs.rejected_variance
        return {"uncertainty_auroc_variance": _auroc(wrong[kept], variance[kept]), **found}


@dataclass(frozen=True)
class Consistency:
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
        kept = {name: float(np.mean(np.sign(_gap(new)) == np.sign(_gap(pairs)))) for name, new in again.items()}
        before = np.r_[pairs.chosen, pairs.rejected]
        found = {"consistency": float(np.mean([*kept.values()]))}
        for name, new in again.items():
            found[f"consistency_{name}"] = kept[name]
            after = np.r_[new.chosen, new.rejected]
            if not _constant(before) and not _constant(after):
                found[f"consistency_{name}_spearman"] = float(stats.spearmanr(before, after).statistic)
        return found


@dataclass(frozen=True)
class Robustness:
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
        return {f"robustness_{name}": float(_right(new).mean()) for name, new in again.items()}


@dataclass(frozen=True)
class Speed:
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
        tokens = _responses(pairs)[1].sum()
        return {"speed_pairs_per_second": len(pairs.chosen) / seconds, "speed_tokens_per_second": tokens / seconds}


@dataclass(frozen=True)
class Certificate:
    """A lower bound on accuracy that holds with probability 1 - delta (Clopper and Pearson 1934, one-sided).

    It assumes that the prompts are independent draws from the population that the claim is about, and that nothing was
    chosen (model, epoch, temperature) by looking at these pairs. Pairs of one prompt are not independent: one random
    pair of each prompt counts. A tie counts as an error.
    """

    delta: Annotated[float, Field(gt=0, lt=1, description="probability that the bound does not hold")] = 0.05

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> certificate_lower_bound, certificate_pairs (how many counted)."""
        order = np.random.default_rng(0).permutation(len(pairs.chosen))
        one = order[np.unique(_prompts(pairs)[order], return_index=True)[1]]
        right, n = int((_gap(pairs)[one] > 0).sum()), len(one)
        bound = float(stats.beta.ppf(self.delta, right, n - right + 1)) if right else 0.0
        return {"certificate_lower_bound": bound, "certificate_pairs": float(n)}


def _gap(pairs: ScoredPairs) -> np.ndarray:
    return pairs.chosen - pairs.rejected


def _right(pairs: ScoredPairs) -> np.ndarray:
    """1 where the order is right, 1/2 at a tie, (pairs,)."""
    return _larger(pairs.chosen, pairs.rejected)


def _larger(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.where(ours == theirs, 0.5, ours > theirs)


def _both_ways(gap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each pair read forth and back: the model's probability that the first is preferred, and whether it is."""
    p = expit(np.concatenate([gap, -gap]))  # not 1 - p, whose rounding puts equal probabilities into two bins
    return p, np.repeat([1.0, 0.0], len(gap))


def _auroc(positive: np.ndarray, score: np.ndarray) -> float:
    """The probability that a positive scores above a negative, a tie counting one half; both must be there."""
    above = stats.mannwhitneyu(score[positive], score[~positive], method="asymptotic").statistic
    return float(above) / (positive.sum() * (~positive).sum())


def _prompts(pairs: ScoredPairs) -> np.ndarray:
    """Codes 0, 1, ... of the pairs' prompts; where nobody knows them, each pair has its own."""
    known = np.arange(len(pairs.chosen)) if pairs.prompt is None else pairs.prompt
    return np.unique(known, return_inverse=True)[1]


def _responses(pairs: ScoredPairs, truth: np.ndarray | None = None) -> np.ndarray:
    """Reward, length and truth of each response, (3, responses), without those whose truth is unknown.

    A response is told from others of its prompt by these numbers, as the pairs do not name it.
    """
    reward, length = np.r_[pairs.chosen, pairs.rejected], np.r_[pairs.chosen_length, pairs.rejected_length]
    columns = [np.tile(_prompts(pairs), 2), reward, length, np.zeros_like(reward) if truth is None else truth]
    rows = np.column_stack(columns)
    return np.unique(rows[~np.isnan(rows[:, 3])], axis=0).T[1:]


def _constant(values: np.ndarray) -> bool:
    return len(values) == 0 or np.ptp(values) == 0


def _printable(text: str) -> str:
    """Fit to be part of a number's name."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


@hookimpl
def register_metric() -> dict[str, type]:
    """The bundled metrics."""
    return {
        "accuracy": Accuracy,
        "accuracy_by_topic": AccuracyByTopic,
        "auc": AUC,
        "calibration": Calibration,
        "certificate": Certificate,
        "consistency": Consistency,
        "cross_entropy": CrossEntropy,
        "length_bias": LengthBias,
        "rank_correlation": RankCorrelation,
        "robustness": Robustness,
        "speed": Speed,
        "temperature_scaling": TemperatureScaling,
        "uncertainty": Uncertainty,
    }
