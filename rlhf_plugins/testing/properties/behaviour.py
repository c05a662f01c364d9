"""Properties of the meaning of a component: what it prefers, and the symmetries that it declares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from rlhf_plugins.contract.records import PairLogps, Prediction, RankedScores
from rlhf_plugins.testing import records, tensor_trials
from rlhf_plugins.testing.conformance import holds_of
from rlhf_plugins.testing.properties.tensors import answered
from rlhf_plugins.testing.subject import Subject, expect, has

REFERENCE = ("ref_chosen", "ref_rejected")
REWARDS = ("scores", "rewards", "prediction.reward")


@holds_of("reward_loss", "preference_loss")
def direction(subject: Subject) -> None:
    """A sign turned round trains the model to prefer what people rejected, with a loss that falls as it should."""
    acts = subject.acting()
    for words, record in tensor_trials.bench(subject.kind).cases(acts):
        right, wrong = (_leaning(record, sign) for sign in (1.0, -1.0))
        good, bad = (tensor_trials.answer(subject, acts, (words, one)) for one in (right, wrong))
        if good is not None and bad is not None:
            good_loss, bad_loss = (result["loss"].mean().item() for result in (good, bad))
            came = f"{good_loss:.6g} for a model that agrees with people, {bad_loss:.6g} for one that disagrees"
            expect(good_loss <= bad_loss + 1e-5, words, "no lower loss for the model that disagrees", came)


def _leaning(record: Any, sign: float) -> Any:
    """The record with rewards that follow what people said, or go against it."""
    if isinstance(record, PairLogps):
        shift = torch.full_like(record.chosen, sign)
        return replace(record, chosen=record.ref_chosen + shift, rejected=record.ref_rejected - shift)
    assert isinstance(record, RankedScores)
    placed = (record.ranks >= 0) & record.present
    scores = -sign * (record.ranks.to(record.scores.dtype) - 0.5).masked_fill(~placed, 0.0)
    result = record.prediction
    assert result is not None
    named = dict.fromkeys(result.dimensions, scores)
    quantiles = None if result.quantiles is None else scores.unsqueeze(-1).expand_as(result.quantiles)
    level = {name: -record.ranks.to(scores.dtype) + 0.5 for name in record.ratings}
    ratings = {name: rating.where(record.ratings[name].isnan(), level[name]) for name, rating in record.ratings.items()}
    prediction = Prediction(scores, result.variance, named, quantiles, None, result.features)
    return replace(record, scores=scores, ratings=ratings, prediction=prediction)


@holds_of("preference_loss")
def reference_as_declared(subject: Subject) -> None:
    """A loss that declares that it reads no reference is given NaN in its place."""
    acts = subject.acting()
    if has(acts, "reads_reference"):
        return
    for case, result in answered(subject, acts):
        unread = records.over(case[1], lambda name, x: x * torch.nan if name in REFERENCE else x)
        again = tensor_trials.answer(subject, acts, (f"{case[0]}, without a reference", unread)) or {}
        for name, part in result.items():
            came = again.get(name, part * torch.nan)
            expected = f"{records.shown(part)}, as `reads_reference = False` says"
            expect(records.equal(came, part), f"{case[0]}, without a reference", expected, records.shown(came))


@holds_of("reward_loss", "aggregation")
def shift_as_declared(subject: Subject) -> None:
    """A reward has no natural zero: a component that declares `under_shift` must not depend on one."""
    _as_declared(subject, "under_shift", "3 added to every reward", lambda x: x + 3.0)


@holds_of("reward_loss", "aggregation", "advantage")
def scale_as_declared(subject: Subject) -> None:
    """A reward has no natural unit: a component that declares `under_scale` must not depend on one."""
    _as_declared(subject, "under_scale", "every reward doubled", lambda x: x * 2.0)


def _as_declared(subject: Subject, trait: str, words: str, change: Any) -> None:
    acts = subject.acting()
    declared = has(acts, trait)
    if declared is None:
        return
    for case, result in answered(subject, acts):
        moved = records.over(case[1], lambda name, x: change(x) if name in REWARDS else x)
        again = tensor_trials.answer(subject, acts, (f"{case[0]}, {words}", moved)) or {}
        for name, part in result.items():
            wanted = part if declared == "same" else change(part)
            came = again.get(name, part * torch.nan)
            expected = f"{records.shown(wanted)}, as `{trait} = {declared!r}` says"
            expect(records.equal(came, wanted, 1e-4), f"{case[0]}, {words}", expected, records.shown(came))
