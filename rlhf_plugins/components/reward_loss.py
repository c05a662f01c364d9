"""Losses of reward models: arithmetic on predictions and judgements of groups, one number a group.

Losses that are made of others are in `reward_loss_composed.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch.nn.functional import logsigmoid, normalize

from rlhf_plugins.arithmetic.likelihoods import cross_entropy, davidson, plackett_luce, rao_kupper
from rlhf_plugins.arithmetic.masked import mean
from rlhf_plugins.arithmetic.ranking import NOT_PLACED, comparisons
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import RewardLoss
from rlhf_plugins.errors import DataError, RunError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_plugins.contract.records import RankedScores
    from rlhf_plugins.contract.rows import Group

Rated = Annotated[str | None, Field(description="the rating to predict; none is the mean of those a response has")]


# ---- of pairs --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class BradleyTerry(RewardLoss, takes_probabilities=True, under_shift="same"):
    """-log sigmoid(d), d = r_chosen - r_rejected (Bradley and Terry 1952; Ouyang et al. 2022, equation 1).

    With a soft label p it is the cross-entropy -p log sigmoid(d) - (1 - p) log sigmoid(-d).
    """

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Ignores margins."""
        return cross_entropy(scores.chosen - scores.rejected, scores.probability)


@dataclass(frozen=True)
class BradleyTerryMargin(RewardLoss, needs={"margin"}, takes_probabilities=True, under_shift="same"):
    """-log sigmoid(d - m), d = r_chosen - r_rejected, m the row's own margin (Touvron et al. 2023, equation 2).

    With a soft label p it is -p log sigmoid(d - m) - (1 - p) log sigmoid(m - d).
    """

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """A row without a margin has m = 0."""
        return cross_entropy(scores.chosen - scores.rejected - scores.margin, scores.probability)


@dataclass(frozen=True)
class Margin(RewardLoss, takes_probabilities=True, under_shift="same"):
    """max(0, m - d), d = r_chosen - r_rejected, the hinge of a support vector machine that ranks (Joachims 2002).

    With a soft label p it is its mean over the label, p max(0, m - d) + (1 - p) max(0, m + d).
    """

    margin: Annotated[float, Field(gt=0, description="m, the gap beyond which a pair costs nothing")] = 1.0

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Ignores the rows' own margins."""
        gap, p = scores.chosen - scores.rejected, scores.probability
        return p * (self.margin - gap).clamp(min=0) + (1 - p) * (self.margin + gap).clamp(min=0)


@dataclass(frozen=True)
class LabelSmoothed(RewardLoss, takes_probabilities=True, under_shift="same"):
    """-(1 - e) log sigmoid(d) - e log sigmoid(-d), d = r_chosen - r_rejected: Bradley-Terry under a share e of flips.

    Szegedy et al. 2016, section 7, for two classes; the loss of cDPO (Mitchell 2023) on rewards. A soft label p becomes
    (1 - e) p + e (1 - p).
    """

    epsilon: Annotated[float, Field(ge=0, lt=0.5, description="e, the share of labels taken to be wrong")] = 0.1

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Least where sigmoid(d) = 1 - e."""
        smoothed = self.epsilon + (1 - 2 * self.epsilon) * scores.probability
        return cross_entropy(scores.chosen - scores.rejected, smoothed)


@dataclass(frozen=True)
class TiesRaoKupper(RewardLoss, takes_ties=True, under_shift="same"):
    """-log P(outcome), P(win) = s(d - t), P(tie) = (e^2t - 1) s(d - t) s(-d - t), s the logistic (Rao and Kupper 1967).

    Responses of equal reward tie with probability tanh(t / 2). At t = 0 it is Bradley-Terry, which refuses ties.
    """

    threshold: Annotated[float, Field(ge=0, description="t = log theta, the gap too small for people to see")] = 0.5

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Raises DataError for a tie where t = 0."""
        _impossible_ties(self.threshold, "threshold", scores.tied)
        return -rao_kupper(scores.chosen - scores.rejected, scores.tied, self.threshold)


@dataclass(frozen=True)
class TiesDavidson(RewardLoss, takes_ties=True, under_shift="same"):
    """-log P(outcome), P(win) : P(loss) : P(tie) = e^(d/2) : e^(-d/2) : nu (Davidson 1970).

    Responses of equal reward tie with probability nu / (2 + nu). At nu = 0 it is Bradley-Terry, which refuses ties.
    """

    nu: Annotated[float, Field(ge=0, description="how readily people tie two responses")] = 1.0

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Raises DataError for a tie where nu = 0."""
        _impossible_ties(self.nu, "nu", scores.tied)
        return -davidson(scores.chosen - scores.rejected, scores.tied, self.nu)


@dataclass(frozen=True)
class Thurstone(RewardLoss, takes_probabilities=True, under_shift="same"):
    """-log Phi(z), z = (mu_chosen - mu_rejected) / sqrt(var_chosen + var_rejected) (Thurstone 1927, case III).

    With a soft label p it is the cross-entropy -p log Phi(z) - (1 - p) log Phi(-z).
    """

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Raises RunError when the head predicts no variance."""
        spread = (
            _predicted(scores, "variance", "thurstone needs a head that predicts it, such as gaussian").sum(1).sqrt()
        )
        z, p = (scores.chosen - scores.rejected) / spread, scores.probability
        return -p * torch.special.log_ndtr(z) - (1 - p) * torch.special.log_ndtr(-z)


@dataclass(frozen=True)
class Centering(RewardLoss, takes_ties=True, takes_probabilities=True):
    """(r_chosen + r_rejected)^2, which holds rewards around 0 (Eisenstein et al. 2023); a term of a `sum`.

    Its weight there is TRL's `center_rewards_coefficient`.
    """

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Ignores which of the two is better."""
        return (scores.chosen + scores.rejected) ** 2


# ---- of rankings -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class PlackettLuce(RewardLoss, whole_groups=True, needs={"ranks"}, under_shift="same"):
    """-log P(ranking) = -sum_i (r_i - log sum_{j not before i} exp r_j) (Luce 1959; Plackett 1975).

    Of two responses it is Bradley-Terry, and so is each judged pair that the ranking does not order, such as those of a
    partial ranking: -log sigmoid(r_better - r_worse) is added for it. Ties that are split count by the approximation of
    Efron (1977), in which the l-th of d tied responses sees all d with the weight 1 - l / d.
    """

    unplaced: Annotated[
        Literal["ignored", "last"], Field(description="a response that nobody placed: left out, or behind all placed")
    ] = "ignored"
    ties: Annotated[Literal["refused", "split"], Field(description="what a shared place is: an error, or split")] = (
        "refused"
    )

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """0 for a group with nothing to order. Raises DataError for a tie that is refused."""
        placed = scores.present & (scores.ranks != NOT_PLACED)
        if self.ties == "refused":
            _no_shared_place(scores.ranks, placed)
        running = placed if self.unplaced == "ignored" else scores.present
        return self._judged_pairs(scores, placed) - plackett_luce(scores.scores, scores.ranks, running)

    def learns_from(self, group: Group) -> bool:
        """Whether the group is a ranking, or a pair of which one response is better."""
        return super().learns_from(group) or any(not c.tied for c in group.comparisons)

    def _judged_pairs(self, scores: RankedScores, placed: Tensor) -> Tensor:
        """The loss of the judged pairs of which one response has no place, with `last` neither has one, (groups,)."""
        found = comparisons(scores)
        better, worse = (placed[found.group, side] for side in (found.better, found.worse))
        ordered = better & worse if self.unplaced == "ignored" else better | worse
        gap = scores.scores[found.group, found.better] - scores.scores[found.group, found.worse]
        zero = scores.scores.new_zeros(len(scores.scores))
        return zero.index_add(0, found.group, -logsigmoid(gap).masked_fill(ordered, 0.0))


# ---- of ratings ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Regression(RewardLoss, whole_groups=True, takes_probabilities=True, needs={"ratings"}):
    """Mean of (prediction - rating)^2 over a group's responses and dimensions; a missing rating counts for nothing.

    Each dimension that the head names is fitted to the rating of that name; the reward of a head that names none to
    the mean of a response's ratings. With `dimension` that rating alone is fitted, by the head's output of that name
    or, where it has none, by the reward.
    """

    dimension: Rated = None

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Raises DataError where the data lack ratings, or those of a dimension."""
        named = scores.prediction.dimensions if scores.prediction else {}
        names = [self.dimension] if self.dimension or not named else list(named)
        fits = [_error(scores, named.get(name or "", scores.scores), name) for name in names]
        return mean(torch.cat([error for error, _ in fits], 1) ** 2, torch.cat([rated for _, rated in fits], 1), 1)


@dataclass(frozen=True)
class LabelCrossEntropy(RewardLoss, whole_groups=True, takes_probabilities=True, needs={"ratings"}):
    """Mean of -y log sigmoid(r) - (1 - y) log sigmoid(-r) over a group's labelled responses: logistic regression.

    y is 1 for a desirable response and 0 for one that is not, r the reward, whose zero then means something.
    """

    dimension: Annotated[str, Field(min_length=1, description="the rating from 0 to 1 that is the label")] = "label"

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Raises DataError where the data lack the rating, or have one that is no probability."""
        error, rated = _error(scores, scores.scores, self.dimension)
        label = scores.ratings[self.dimension].to(error).masked_fill(~rated, 0.0)
        if bool(((label < 0) | (label > 1)).any()):
            raise DataError(f"label_cross_entropy: the rating {self.dimension!r} should be from 0 to 1")
        return mean(cross_entropy(scores.scores, label), rated, 1)


@dataclass(frozen=True)
class GaussianNLL(RewardLoss, whole_groups=True, takes_probabilities=True, needs={"ratings"}):
    """Mean of 1/2 (log var + (rating - mu)^2 / var) over a group's rated responses (Nix and Weigend 1994).

    mu is the reward and var the variance that the head predicts; the constant 1/2 log 2 pi is left out.
    """

    dimension: Rated = None

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Raises RunError when the head predicts no variance, DataError when the data lack the rating."""
        error, rated = _error(scores, scores.scores, self.dimension)
        variance = _predicted(scores, "variance", "gaussian_nll needs a head that predicts it, such as gaussian")
        variance = variance.masked_fill(~rated, 1.0)
        return mean(0.5 * (variance.log() + error**2 / variance), rated, 1)


@dataclass(frozen=True)
class Quantile(RewardLoss, whole_groups=True, takes_probabilities=True, needs={"ratings"}):
    """Mean of max(t u, (t - 1) u), u = rating - quantile, over levels t = (q + 1/2) / Q and a group's rated responses.

    The pinball loss (Koenker and Bassett 1978; Dorka 2024 for reward models).
    """

    dimension: Rated = None

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Raises RunError when the head predicts no quantiles, DataError when the data lack the rating."""
        quantiles = _predicted(scores, "quantiles", "quantile needs a head that predicts them, such as quantile")
        error, rated = _error(scores, quantiles.movedim(-1, 0), self.dimension)  # (Q, groups, K)
        level = ((torch.arange(len(error)).to(error) + 0.5) / len(error)).view(-1, 1, 1)
        return mean(torch.maximum(-level * error, (1 - level) * error).mean(0), rated, 1)


# ---- of features -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Contrastive(RewardLoss, whole_groups=True, uses_batch_mates=True):
    """InfoNCE: -log exp(sim(h, h+) / t) / sum_i exp(sim(h, h_i) / t), sim the cosine (van den Oord et al. 2018).

    h is the feature vector of a chosen response, h+ that of another group's, and i runs over all responses of the
    batch but h itself; the mean is taken over h+ (Khosla et al. 2020, equation 2). A response is chosen that was found
    better than another and never worse. By its nature a group's number depends on its batch mates. With `hardest` only
    so many responses that are not chosen are in the sum, those nearest to h: the hard negatives.
    """

    temperature: Annotated[float, Field(gt=0, description="t")] = 0.1
    hardest: Annotated[
        Annotated[int, Field(ge=1)] | None, Field(description="negatives of each response, the nearest; null is all")
    ] = None

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """0 for a group of which none is chosen, or whose batch holds no other chosen response."""
        size = scores.scores.shape
        features = _predicted(scores, "features", "contrastive compares those of responses")
        features = features.masked_fill(~scores.present.unsqueeze(2), 1.0)
        unit = normalize(features.flatten(0, 1), dim=1)  # (N, width)
        logits = unit @ unit.T / self.temperature
        chosen = _chosen(scores).flatten()
        group = torch.arange(size[0], device=chosen.device).repeat_interleave(size[1])
        positive = chosen.unsqueeze(1) & chosen & (group.unsqueeze(1) != group)  # (N, N)
        anchor = positive.any(1)
        others = scores.present.flatten() & ~torch.eye(len(unit), dtype=torch.bool, device=chosen.device)
        if self.hardest is not None:
            others &= chosen | _nearest(logits.detach(), others & ~chosen, self.hardest)
        excluded = anchor.unsqueeze(1) & ~others  # a row of -inf alone has no gradient
        losses = logits.masked_fill(excluded, -torch.inf).logsumexp(1) - mean(logits, positive, 1)
        return mean(losses.view(size), anchor.view(size), 1)


# ---- shared ----------------------------------------------------------------------------------------------
def _predicted(scores: RankedScores, name: str, why: str) -> Tensor:
    """A field of the prediction. Raises RunError where the model leaves it out."""
    value: Tensor | None = getattr(scores.prediction, name, None)
    if value is None:
        raise RunError(f"the reward model predicts no {name}: {why}")
    return value


def _error(scores: RankedScores, predicted: Tensor, dimension: str | None) -> tuple[Tensor, Tensor]:
    """predicted (..., groups, K) minus the rating, 0 where there is none; and where there is one, (groups, K)."""
    if not scores.ratings:
        raise DataError("the data hold no ratings to predict: use data with ratings, or a loss of comparisons")
    if dimension is None:
        rating = torch.stack(list(scores.ratings.values())).nanmean(0)
    elif dimension in scores.ratings:
        rating = scores.ratings[dimension]
    else:
        raise DataError(f"the data hold no ratings of {dimension!r} {nearest(dimension, scores.ratings)}")
    rated = scores.present & ~rating.isnan()
    return (predicted - rating).masked_fill(~rated, 0.0), rated


def _impossible_ties(parameter: float, name: str, tied: Tensor) -> None:
    if not parameter and tied.any():
        raise DataError(f"a pair is tied, which {name} = 0 makes impossible: set {name} above 0, or use bradley_terry")


def _no_shared_place(ranks: Tensor, placed: Tensor) -> None:
    same = (ranks.unsqueeze(1) == ranks.unsqueeze(2)) & placed.unsqueeze(1) & placed.unsqueeze(2)
    if same.triu(1).any():
        raise DataError("two responses of a ranking share a place, which plackett_luce refuses: set `ties: split`")


def _nearest(logits: Tensor, allowed: Tensor, count: int) -> Tensor:
    """The `count` allowed places of each row with the greatest logits, (N, N) bool; fewer where fewer are allowed."""
    best = logits.masked_fill(~allowed, -torch.inf).topk(min(count, logits.shape[1]), dim=1).indices
    return torch.zeros_like(allowed).scatter(1, best, True) & allowed


def _chosen(scores: RankedScores) -> Tensor:
    """Responses found better than another and never worse, (groups, K) bool."""
    compared = comparisons(scores)
    chosen = torch.zeros_like(scores.present)
    chosen[compared.group, compared.better] = True
    chosen[compared.group, compared.worse] = False
    return chosen


@hookimpl
def register_reward_loss() -> dict[str, type]:
    """The bundled losses of reward models that hold no other loss."""
    return {
        "bradley_terry": BradleyTerry,
        "bradley_terry_margin": BradleyTerryMargin,
        "centering": Centering,
        "contrastive": Contrastive,
        "gaussian_nll": GaussianNLL,
        "label_cross_entropy": LabelCrossEntropy,
        "label_smoothed": LabelSmoothed,
        "margin": Margin,
        "plackett_luce": PlackettLuce,
        "quantile": Quantile,
        "regression": Regression,
        "thurstone": Thurstone,
        "ties_davidson": TiesDavidson,
        "ties_rao_kupper": TiesRaoKupper,
    }
