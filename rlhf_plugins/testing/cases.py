"""The inputs that components are tried with: small, mixed on purpose, and the same every time.

"Mixed" is the point: rows with and without a margin, a weight, a rating, a tie, an absent response are in one batch, as
in real data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_plugins.contract.records import Compared, MemberScores, PairLogps, Prediction, RankedScores
from rlhf_plugins.contract.rollout import Rollout
from rlhf_plugins.testing.records import pick

if TYPE_CHECKING:
    from rlhf_plugins.contract.interfaces import PreferenceLoss

WIDTH, QUANTILES, LENGTH = 8, 5, 40
BIG = 1e4  # a reward, a feature or a log-probability that a model in trouble may give


@dataclass(frozen=True)
class Hidden:
    """What a pooling is given; the response's mask where it asks for it."""

    hidden: Tensor  # (batch, length, width)
    mask: Tensor  # (batch, length) of the sequence
    response: Tensor  # (batch, length)
    sentences: Tensor  # (batch, length) the number of each token's


@dataclass(frozen=True)
class Features:
    """What a head is given."""

    features: Tensor  # (batch, width)
    columns: Mapping[str, Tensor] = field(default_factory=dict)  # (batch, ...) of a head that reads some


def _normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


# ---- poolings and heads ----------------------------------------------------------------------------------
def hidden(_: object = None) -> list[tuple[str, Hidden]]:
    """Four sequences of 1 to 40 tokens, padded on the right, of which the last tokens are the response's."""
    length, prompt = torch.tensor([40, 4, 1, 23]), torch.tensor([12, 3, 0, 3])
    places = torch.arange(LENGTH)
    mask = places < length.unsqueeze(1)
    response = mask & (places >= prompt.unsqueeze(1))
    sentences = (places // 7).expand_as(mask)
    return [("four sequences padded on the right", Hidden(_normal(4, LENGTH, WIDTH), mask, response, sentences))]


def hidden_extremes(_: object = None) -> list[tuple[str, Hidden]]:
    """Hidden states of a model in trouble, and a sequence in which nothing is marked."""
    one = hidden()[0][1]
    nothing = torch.zeros_like(one.mask)
    return [
        (f"hidden states of size {BIG:.0e}", replace(one, hidden=one.hidden * BIG)),
        ("hidden states of 0", replace(one, hidden=one.hidden * 0)),
        ("a mask that marks no token", replace(one, mask=nothing, response=nothing)),
    ]


def features(head: Any = None) -> list[tuple[str, Features]]:
    """Four feature vectors."""
    return [("four feature vectors", Features(_normal(4, WIDTH), _columns(head)))]


def features_extremes(head: Any = None) -> list[tuple[str, Features]]:
    """Feature vectors of a model in trouble."""
    return [
        (f"features of size {BIG:.0e}", Features(_normal(4, WIDTH) * BIG, _columns(head))),
        ("features of 0", Features(torch.zeros(4, WIDTH), _columns(head))),
    ]


def _columns(head: Any) -> Mapping[str, Tensor]:
    """What four rows have in the columns that a head, or what it built, reads."""
    from rlhf_plugins.contract.guards import maker

    return {} if head is None or not head.columns else maker(head).examples(4)


# ---- reward losses ---------------------------------------------------------------------------------------
def ranked(loss: Any) -> list[tuple[str, RankedScores]]:
    """Pairs or whole groups, as the loss says that it takes them."""
    if loss.whole_groups:
        return [
            ("four groups of up to four responses, some absent or unplaced", _rated(loss, _groups())),
            ("four groups with a tie each", _rated(loss, replace(_groups(), ranks=_TIED))),
            ("four groups of which people compared some pairs", _rated(loss, replace(_groups(), compared=_compared()))),
        ]
    found = [("four pairs, two with a margin", _rated(loss, _pairs()))]
    if loss.takes_ties:
        tied = replace(found[0][1], ranks=torch.tensor([[0, 1], [0, 0], [0, 1], [0, 1]]))
        found.append(("four pairs, one of them tied", tied))
    return found


def ranked_extremes(loss: Any) -> list[tuple[str, RankedScores]]:
    """Rewards far apart in both directions, and equal ones."""
    first = ranked(loss)[0][1]
    found = [(f"rewards of {size:+.0e} and less", _scored(first, first.scores * size)) for size in (BIG, -BIG)]
    found.append(("equal rewards", _scored(first, first.scores * 0)))
    return [*((name, _rated(loss, record)) for name, record in found), ("a batch of one", pick(first, [0]))]


def _rated(loss: object, record: RankedScores) -> RankedScores:
    """The record with what the loss's option `dimension` names, where it has one, as rated and as predicted."""
    name, said, size = getattr(loss, "dimension", None), record.prediction, record.scores.shape
    if not isinstance(name, str):
        return record
    if name not in record.ratings:  # a share, so that it may be a label
        rating = _normal(*size, seed=9).sigmoid().masked_fill(~record.present, torch.nan)
        record = replace(record, ratings={**record.ratings, name: rating})
    if said is None or name in said.dimensions:
        return record
    more = {**said.dimensions, name: _normal(*size, seed=8).abs()}
    return replace(record, prediction=replace(said, dimensions=more))


def _pairs() -> RankedScores:
    scores = torch.tensor([[1.27, -0.45], [0.22, 0.78], [-0.51, -1.43], [2.03, 0.56]])
    ratings = {
        "helpful": torch.tensor([[4.0, 2.0], [3.0, 1.0], [2.0, torch.nan], [4.0, 0.0]]),
        "honest": torch.tensor([[1.0, 0.0], [2.0, 1.0], [3.0, 1.0], [torch.nan, torch.nan]]),
    }
    return RankedScores.of(
        scores, torch.tensor([0.0, 0.5, 0.0, 1.5]), weight=torch.tensor([1.0, 0.5, 1.0, 2.0]),
        topic=torch.tensor([0, 1, 0, 2]),
        probability=torch.tensor([1.0, 0.75, 1.0, 0.5]), ratings=ratings, prediction=_predicted(scores),
    )  # fmt: skip


_RANKS = torch.tensor([[0, 1, 2, 3], [1, 0, 2, -1], [2, -1, 0, 1], [0, 1, -1, -1]])
_TIED = torch.tensor([[0, 0, 1, 2], [1, 0, 1, -1], [0, -1, 0, 1], [0, 0, -1, -1]])


def _groups() -> RankedScores:
    present = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    scores = _normal(4, 4, seed=1).masked_fill(~present, 0.0)
    ratings = {
        name: (_normal(4, 4, seed=i) + 2).masked_fill(~present, torch.nan)
        for i, name in ((2, "helpful"), (3, "honest"))
    }
    return RankedScores.of(
        scores, torch.tensor([0.0, 0.5, 0.0, 1.5]), weight=torch.tensor([1.0, 0.5, 1.0, 2.0]),
        topic=torch.tensor([0, 1, 0, 2]),
        ranks=_RANKS, present=present, ratings=ratings, prediction=_predicted(scores),
    )  # fmt: skip


def _compared() -> Compared:
    """Some pairs of the groups, one of them tied."""
    return Compared(
        group=torch.tensor([0, 0, 1, 2, 2, 3]), better=torch.tensor([0, 2, 1, 2, 3, 0]),
        worse=torch.tensor([1, 3, 0, 0, 0, 1]), tied=torch.tensor([False, False, False, True, False, False]),
        margin=torch.tensor([0.0, 1.0, 0.5, 0.0, 0.0, 2.0]), weight=torch.tensor([1.0, 1.0, 0.5, 1.0, 1.0, 2.0]),
        probability=torch.tensor([1.0, 0.75, 1.0, 0.5, 1.0, 1.0]),
    )  # fmt: skip


def _predicted(scores: Tensor) -> Prediction:
    """Everything that a head may say of rewards; what it says differs from response to response."""
    size = scores.shape
    spread = torch.linspace(-1, 1, QUANTILES)
    named = {name: scores * 0.5 + _normal(*size, seed=i) for i, name in ((4, "helpful"), (5, "honest"))}
    return Prediction(
        scores, _normal(*size, seed=6).abs() + 0.5, named, scores.unsqueeze(-1) + spread,
        features=_normal(*size, WIDTH, seed=7),
    )  # fmt: skip


def _scored(record: RankedScores, scores: Tensor) -> RankedScores:
    return replace(record, scores=scores, prediction=_predicted(scores))


# ---- preference losses -----------------------------------------------------------------------------------
def pairs(loss: PreferenceLoss | None = None) -> list[tuple[str, PairLogps]]:
    """Four pairs of responses of different lengths; of labelled responses, where the loss takes them, two are bad."""
    record = PairLogps.of(
        torch.tensor([-12.0, -30.0, -3.5, -55.0]), torch.tensor([-14.0, -22.0, -9.0, -50.0]),
        torch.tensor([-13.0, -29.0, -4.5, -57.0]), torch.tensor([-13.5, -23.0, -8.0, -51.5]),
        torch.tensor([8, 20, 2, 40]), torch.tensor([11, 14, 6, 33]), margin=torch.tensor([1.0, 0.0, 3.0, 0.5]),
    )  # fmt: skip
    if loss is not None and loss.unpaired:
        record = replace(record, probability=torch.tensor([1.0, 0.0, 1.0, 0.0]))
    if loss is not None and loss.reads_entropy:
        record = replace(record, entropies=torch.tensor([[1.5, 2.0], [0.25, 0.5], [3.0, 2.5], [0.0, 1.0]]))
    return [("four pairs of responses of 2 to 40 tokens", record)]


def pairs_extremes(loss: PreferenceLoss | None = None) -> list[tuple[str, PairLogps]]:
    """Certain and impossible responses, a policy that equals its reference, one pair alone."""
    record = pairs(loss)[0][1]
    zeros, low = torch.zeros(4), torch.full((4,), -BIG)
    ones = torch.ones(4, dtype=torch.long)
    same = replace(record, ref_chosen=record.chosen, ref_rejected=record.rejected)
    return [
        ("a chosen response of probability 1 and a rejected one of log-probability -1e4",
         PairLogps.of(zeros, low, low, zeros, ones, ones * 4096, entropies=record.entropies)),
        ("a rejected response of probability 1 and a chosen one of log-probability -1e4",
         PairLogps.of(low, zeros, zeros, low, ones * 4096, ones, entropies=record.entropies)),
        ("a policy that equals its reference", same),
        ("a batch of one", pick(record, [0])),
    ]  # fmt: skip


# ---- advantages ------------------------------------------------------------------------------------------
def rollouts(estimator: Any) -> list[tuple[str, Rollout]]:
    """Four responses to two prompts, of 5, 3, 1 and 4 tokens."""
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4]).unsqueeze(1)
    scores = torch.tensor([1.0, -0.5, 0.25, 2.0])
    last = mask.sum(1) - 1
    rewards = (0.05 * _normal(4, 5)).masked_fill(~mask, 0.0)
    rewards[torch.arange(4), last] += scores
    values = _normal(4, 5, seed=1).masked_fill(~mask, 0.0) if estimator.reads_values else None
    baseline = torch.tensor([0.5, 0.5, 1.0, 1.0]) if estimator.reads_baseline else None
    log_probs = -_normal(4, 5, seed=2).abs().masked_fill(~mask, 0.0)
    made = Rollout(scores, rewards, values, mask, torch.tensor([0, 0, 1, 1]), log_probs, baseline)
    return [("four responses to two prompts", made)]


def rollout_extremes(estimator: Any) -> list[tuple[str, Rollout]]:
    """Rewards that are large, and that are all equal; certain tokens; one response alone where no two are needed."""
    one = rollouts(estimator)[0][1]
    equal = replace(one, scores=one.scores * 0 + 1, rewards=one.rewards * 0)
    large = replace(one, scores=one.scores * BIG, rewards=one.rewards * BIG)
    certain = replace(one, log_probs=torch.zeros(4, 5))
    found = [("equal rewards", equal), (f"rewards of size {BIG:.0e}", large), ("tokens of probability 1", certain)]
    return found + ([("a batch of one", pick(one, [0]))] if estimator.min_group < 2 else [])


# ---- aggregations ----------------------------------------------------------------------------------------
def members(_: object = None) -> list[tuple[str, MemberScores]]:
    """Three members' rewards of four responses to two prompts."""
    group = torch.tensor([0, 0, 1, 1])
    return [
        (
            "three members and four responses",
            MemberScores(_normal(3, 4), torch.tensor([0.6, 0.7, 0.65]), group, _normal(3, 4, seed=1).sigmoid()),
        )
    ]


def members_extremes(_: object = None) -> list[tuple[str, MemberScores]]:
    """Members that agree, that are far apart, and one alone."""
    one = members()[0][1]
    return [
        ("members that agree", replace(one, rewards=one.rewards[:1].expand(3, 4).clone())),
        (f"rewards of size {BIG:.0e}", replace(one, rewards=one.rewards * BIG)),
        ("one member alone", MemberScores(one.rewards[:1], one.accuracy[:1], one.group)),
    ]
