"""Measures of a reward model on held-out pairs: arithmetic on arrays of rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
from pydantic import Field
from scipy import optimize, stats
from scipy.special import expit

from rlhf_plugins.arithmetic import scored
from rlhf_plugins.arithmetic.bounds import mean_above
from rlhf_plugins.arithmetic.intervals import cluster_interval, unanimous
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import Metric

if TYPE_CHECKING:
    from rlhf_plugins.contract.records import ScoredPairs

Bins = Annotated[int, Field(ge=1, description="equal-width bins of p over [0, 1]")]
MATCHED = 0.1  # lengths that differ by less than this share of the longer one
PEOPLE = 20  # annotators that are named
FARTHEST = 7.0  # how far from the mean gap a temperature is looked for, as a natural logarithm


@dataclass(frozen=True)
class Accuracy(Metric, under_shift="same"):
    """The share of pairs whose chosen response has the higher reward, a tie counting one half.

    Its 95% interval is the wider of two, within 0 and 1. One is a bootstrap (Efron 1987, BCa; of more than 2000 prompts
    the percentiles) that draws prompts, not pairs: pairs of one prompt share responses, so they say less than as many
    pairs of different prompts (Field and Welsh 2007, the cluster bootstrap). It is too narrow for few prompts, so that
    the other is Student's of the linearised ratio over prompts (Cochran 1977, chapter 6). Where all prompts agree, at
    100% say, it is Wilson's interval (1927), which few prompts leave wide. The accuracy of always preferring the longer
    response is reported beside it.
    """

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> accuracy, accuracy_low, accuracy_high, accuracy_longer_response."""
        right = scored.right(pairs)
        low, high = _interval(right, scored.prompts(pairs))
        longer = float(scored.larger(pairs.chosen_length, pairs.rejected_length).mean())
        interval = {"accuracy_low": low, "accuracy_high": high}
        return {"accuracy": float(right.mean()), **interval, "accuracy_longer_response": longer}


def _interval(right: np.ndarray, prompts: np.ndarray) -> tuple[float, float]:
    """Where all prompts agree, or there is but one, it is Wilson's of as many prompts."""
    counts, sums = np.bincount(prompts), np.bincount(prompts, right)  # (prompts,)
    if np.ptp(sums / counts) == 0:
        return unanimous(float(right.mean()), len(counts))
    _, low, high = cluster_interval(sums, counts)
    return max(low, 0.0), min(high, 1.0)


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
class Calibration(Metric, under_shift="same"):
    """Calibration of p = sigmoid(r_a - r_b), or the share of votes for a, as the probability that people prefer a to b.

    Each pair is read both ways round, since which response came first is arbitrary. ECE = sum_b |b|/n |preferred(b) -
    p(b)| over equal-width bins, MCE is the largest of these gaps (Naeini et al. 2015), and Brier's score is the mean of
    (preferred - p)^2 (Brier 1950).
    """

    bins: Bins = 10

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> calibration_ece, calibration_mce, calibration_brier."""
        p, preferred = _both_ways(scored.gap(pairs), pairs.probability)
        errors = calibration_errors(p, preferred, self.bins)
        found = {"calibration_ece": errors.expected, "calibration_mce": errors.maximum}
        return {**found, "calibration_brier": float(np.mean((p - preferred) ** 2))}


@dataclass(frozen=True)
class TemperatureScaling(Metric, under_shift="same"):
    """The T that makes people's choices most likely under sigmoid((r_a - r_b) / T) (Guo et al. 2017, section 4.2).

    T is fitted on the pairs of a random half of the prompts; ECE before and after is of the pairs of the other half.
    Shares of votes have no temperature.
    """

    bins: Bins = 10
    seed: Annotated[int, Field(ge=0, description="of the split by prompt")] = 0

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> temperature_scaling_temperature, _ece_before, _ece_after; nothing of one prompt, or of equal rewards."""
        gap, prompts = scored.gap(pairs), scored.prompts(pairs)
        order = np.random.default_rng(self.seed).permutation(prompts.max() + 1)
        fitted = np.isin(prompts, order[: len(order) // 2])
        if not gap[fitted].any() or pairs.probability is not None:
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
class CrossEntropy(Metric, under_shift="same"):
    """The mean of -log sigmoid(r_chosen - r_rejected), in nats: Bradley-Terry's loss on held-out pairs.

    It is not measured of shares of votes: one pair that all members order wrong would make it infinite.
    """

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> cross_entropy; nothing of shares of votes."""
        if pairs.probability is not None:
            return {}
        return {"cross_entropy": float(np.logaddexp(0, -scored.gap(pairs)).mean())}


@dataclass(frozen=True)
class AUC(Metric):
    """Area under the ROC curve of r_a - r_b as a classifier of which response people prefer, each pair both ways round.

    `auc_responses` tears the pairs apart: the probability that a random chosen response has a higher reward than a
    random rejected one, of whatever prompts.
    """

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> auc, auc_responses."""
        gap, preferred = scored.gap(pairs), np.repeat([True, False], len(pairs.chosen))
        rewards = {"auc": [gap, -gap], "auc_responses": [pairs.chosen, pairs.rejected]}
        found = {name: _auroc(preferred, np.concatenate(sides)) for name, sides in rewards.items()}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class RankCorrelation(Metric):
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
        reward, _, truth = scored.responses(pairs, np.concatenate([chosen, rejected]))
        if scored.constant(reward) or scored.constant(truth):
            return {}
        return {
            "rank_correlation_spearman": float(stats.spearmanr(reward, truth).statistic),
            "rank_correlation_kendall": float(stats.kendalltau(reward, truth).statistic),
        }


@dataclass(frozen=True)
class AccuracyByTopic(Metric, under_shift="same"):
    """Accuracy on the pairs of each topic, and on the worst of them; pairs without a topic are left out."""

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> accuracy_by_topic_worst, accuracy_by_topic/<topic>; nothing where no pair has a topic."""
        found = {topic: float(right.mean()) for topic, right in _by_text(pairs.topic, scored.right(pairs)).items()}
        named = {f"accuracy_by_topic/{topic}": share for topic, share in found.items()}
        return {"accuracy_by_topic_worst": min(found.values()), **named} if found else {}


@dataclass(frozen=True)
class AgreementByAnnotator(Metric, under_shift="same"):
    """The share of each annotator's labels that the model agrees with, a tie counting one half, and their number.

    An annotator is whom the rows' column `annotator` names: a person or, where a recipe reads another column as it, a
    group of people. Of more than 20 those with the fewest labels are put together.
    """

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> agreement_by_annotator/<annotator>, and _labels/<annotator>; nothing where no pair has an annotator."""
        found = sorted(_by_text(pairs.annotator, scored.right(pairs)).items(), key=lambda item: -len(item[1]))
        if rest := found[PEOPLE:]:
            found = [*found[:PEOPLE], (f"{len(rest)} others", np.concatenate([right for _, right in rest]))]
        agreement = {f"agreement_by_annotator/{who}": float(right.mean()) for who, right in found}
        return agreement | {f"agreement_by_annotator_labels/{who}": float(len(right)) for who, right in found}


@dataclass(frozen=True)
class LengthBias(Metric, under_shift="same"):
    """How far reward follows response length.

    Spearman's rho of reward with length over all held-out responses, each once; accuracy on the pairs whose lengths
    differ by less than a tenth of the longer, where length cannot help; and accuracy on the pairs whose chosen response
    is the shorter, where it misleads. Each accuracy is reported with the number of its pairs.
    """

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> length_bias, length_bias_matched, length_bias_shorter, and _pairs of both; without what has no pair."""
        reward, length, _ = scored.responses(pairs)
        chosen, rejected, right = pairs.chosen_length, pairs.rejected_length, scored.right(pairs)
        parts = {
            "matched": np.abs(chosen - rejected) < MATCHED * np.maximum(chosen, rejected),
            "shorter": chosen < rejected,
        }
        found = (
            {}
            if scored.constant(reward) or scored.constant(length)
            else {"length_bias": stats.spearmanr(reward, length)[0]}
        )
        for name, part in parts.items():
            if part.any():
                found |= {f"length_bias_{name}": right[part].mean(), f"length_bias_{name}_pairs": part.sum()}
        return {name: float(value) for name, value in found.items()}


@dataclass(frozen=True)
class Uncertainty(Metric):
    """How well the model's doubt finds its own errors: AUROC over pairs, an error being the positive class.

    Doubt is the variance that the head predicts for the gap, the sum of the two responses' variances; or the same sum
    of the variances among an ensemble's members; or, for every head, how small |r_chosen - r_rejected| is. Pairs with
    equal rewards are left out. Where people rated the responses, a response's own predicted variance is also asked to
    find those whose reward is farther from the rating than the median.

    The means of both variances over the held-out responses are reported too, in squared units of the reward:
    the predicted (aleatoric: what people disagree about) and the members' (epistemic: what more data could settle;
    Kendall and Gal 2017).
    """

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> uncertainty_auroc_gap, _auroc_variance, _auroc_rating, _auroc_epistemic, _aleatoric and _epistemic.

        Without those whose variance or ratings nobody knows, and without an AUROC of no error or of errors alone.
        """
        gap = scored.gap(pairs)
        kept, wrong = gap != 0, gap < 0
        found = {"auroc_gap": _auroc(wrong[kept], -np.abs(gap[kept]))}
        for doubt, mean, sides in (
            ("auroc_variance", "aleatoric", (pairs.chosen_variance, pairs.rejected_variance)),
            ("auroc_epistemic", "epistemic", (pairs.chosen_epistemic, pairs.rejected_epistemic)),
        ):
            chosen, rejected = sides
            if chosen is not None and rejected is not None:
                found[doubt] = _auroc(wrong[kept], (chosen + rejected)[kept])
                found[mean] = float(scored.responses(pairs, np.r_[chosen, rejected])[2].mean())
        if pairs.chosen_variance is not None:
            found["auroc_rating"] = _auroc(*_rating_errors(pairs))
        return {f"uncertainty_{name}": value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Certificate(Metric, under_shift="same"):
    """A lower bound on accuracy that holds with probability 1 - delta: each prompt has one vote, which its pairs share.

    With probability 1 - delta the model orders at least so large a share of a new prompt's pairs as people do. Where
    every prompt has one pair, it is that of Clopper and Pearson (1934, one-sided); else a prompt counts as the share of
    its pairs that are right, and the bound is by betting (Waudby-Smith and Ramdas 2024), for any such shares. A tie
    counts as an error. It assumes that the prompts are independent draws from the population that the claim is about,
    and that nothing was chosen (model, epoch, temperature) by looking at these pairs.
    """

    delta: Annotated[float, Field(gt=0, lt=1, description="probability that the bound does not hold")] = 0.05

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> certificate_lower_bound, certificate_prompts (how many voted)."""
        prompts, right = scored.prompts(pairs), scored.gap(pairs) > 0
        counts, votes = np.bincount(prompts), np.bincount(prompts, right)
        n, won = len(counts), int(votes.sum())
        if counts.max() > 1:
            bound = mean_above(votes / counts, self.delta)
        else:
            bound = float(stats.beta.ppf(self.delta, won, n - won + 1)) if won else 0.0
        return {"certificate_lower_bound": bound, "certificate_prompts": float(n)}


def _both_ways(gap: np.ndarray, likely: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Each pair read forth and back: the model's probability that the first is preferred, and whether it is."""
    p = expit(np.concatenate([gap, -gap]))  # not 1 - p, whose rounding puts equal probabilities into two bins
    if likely is not None:
        p = np.concatenate([likely, 1 - likely]).round(9)
    return p, np.repeat([1.0, 0.0], len(gap))


def _rating_errors(pairs: ScoredPairs) -> tuple[np.ndarray, np.ndarray]:
    """For each rated response: whether its reward is farther from its rating than the median, and its variance."""
    if pairs.chosen_rating is None or pairs.rejected_rating is None:
        return np.zeros(0, dtype=bool), np.zeros(0)
    reward, rating = np.r_[pairs.chosen, pairs.rejected], np.r_[pairs.chosen_rating, pairs.rejected_rating]
    columns = [np.tile(scored.prompts(pairs), 2), reward, rating, np.r_[pairs.chosen_variance, pairs.rejected_variance]]
    rows = np.unique(np.column_stack(columns)[~np.isnan(rating)], axis=0)  # a response may be in several pairs
    error = np.abs(rows[:, 1] - rows[:, 2])
    return error > np.median(error) if len(error) else error > 0, rows[:, 3]


def _auroc(positive: np.ndarray, score: np.ndarray) -> float | None:
    """The probability that a positive scores above a negative, a tie counting one half; None where there is but one."""
    if len(np.unique(positive)) < 2:
        return None
    above = stats.mannwhitneyu(score[positive], score[~positive], method="asymptotic").statistic
    return float(above) / (positive.sum() * (~positive).sum())


def _by_text(texts: np.ndarray | None, values: np.ndarray) -> dict[str, np.ndarray]:
    """The values of the pairs of each text, without those of the empty one."""
    known = np.array([] if texts is None else texts, dtype=str)
    return {_printable(str(text)): values[known == text] for text in np.unique(known) if text}


def _printable(text: str) -> str:
    """Fit to be part of a number's name."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


@hookimpl
def register_metric() -> dict[str, type]:
    """The bundled metrics."""
    return {
        "accuracy": Accuracy,
        "accuracy_by_topic": AccuracyByTopic,
        "agreement_by_annotator": AgreementByAnnotator,
        "auc": AUC,
        "calibration": Calibration,
        "certificate": Certificate,
        "cross_entropy": CrossEntropy,
        "length_bias": LengthBias,
        "rank_correlation": RankCorrelation,
        "temperature_scaling": TemperatureScaling,
        "uncertainty": Uncertainty,
    }
