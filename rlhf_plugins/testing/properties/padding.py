"""Properties of padding: whatever its side, amount and content, it changes no result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf_plugins.contract.records import RankedScores
from rlhf_plugins.testing import records, tensor_trials
from rlhf_plugins.testing.conformance import holds_of
from rlhf_plugins.testing.properties.tensors import answered
from rlhf_plugins.testing.subject import Subject, expect

PADDED = ("pooling", "reward_loss", "advantage", "policy_loss")
GARBAGE = 1234.5


@holds_of(*PADDED)
def padding_content(subject: Subject) -> None:
    """Padding holds values left over from something else: they must not be read."""
    _unmoved(subject, "with other numbers in the padding", _refilled)


@holds_of(*PADDED)
def padding_amount(subject: Subject) -> None:
    """How much padding an example gets is decided by the longest one in its batch."""
    _unmoved(subject, "with more padding", _longer)


@holds_of("pooling")
def padding_side(subject: Subject) -> None:
    """Some tokenizers pad on the left, some on the right; generation and training differ in it."""
    _unmoved(subject, "padded on the left", lambda record: records.over(record, lambda _, x: _left(x, record.mask)))


@holds_of("pooling", "reward_loss", "policy_loss")
def padding_gets_no_gradient(subject: Subject) -> None:
    """A gradient into padding trains the model on what nobody wrote."""
    acts = subject.acting()
    for (words, record), _ in answered(subject, acts):
        leaves = {
            name: tensor.clone().requires_grad_() for name, tensor in tensor_trials.learned(subject, record).items()
        }
        result = tensor_trials.answer(subject, acts, (words, tensor_trials.filled(record, leaves))) or {}
        total = torch.stack([_marked(part, record).sum() for part in result.values()]).sum()
        if total.requires_grad:
            found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
            for name, grad in zip(leaves, found, strict=True):
                none = grad is None or not bool(grad[~_filled(record)].any())
                expect(none, words, f"no gradient for `{name}` where there is padding", "one")


def _unmoved(subject: Subject, words: str, change: Callable[[Any], Any]) -> None:
    acts = subject.acting()
    for case, result in answered(subject, acts):
        changed = change(case[1])
        if changed is None:
            continue
        tried = f"{case[0]}, {words}"
        again = tensor_trials.answer(subject, acts, (tried, changed)) or {}
        for name, part in result.items():
            came = again.get(name)
            expect(came is not None, tried, f"{name} both times", "a refusal")
            if came is not None:
                before, after = (_marked(part, case[1]), _marked(came, changed))
                same = records.equal(after, before, 1e-4)
                expect(same, tried, f"the same {name}, {records.shown(before)}", records.shown(after))


def _marked(part: Tensor, record: Any) -> Tensor:
    """The part of an answer with a number for each token that is at tokens, not at padding."""
    return part[record.mask] if part.dim() == 2 and part.shape == getattr(record, "mask", part[:0]).shape else part


def _filled(record: Any) -> Tensor:
    """Where something is."""
    where: Tensor = record.present if isinstance(record, RankedScores) else record.mask
    return where


def _refilled(record: Any) -> Any:
    """The record with garbage where nothing is; None where it has no padding."""
    filled, keep = _filled(record), {"mask", "response", "present", "ranks"}
    if bool(filled.all()):
        return None

    def change(name: str, tensor: Tensor) -> Tensor:
        if name in keep or tensor.shape[:2] != filled.shape or not tensor.is_floating_point():
            return tensor
        return tensor.masked_fill(~filled.view(*filled.shape, *[1] * (tensor.dim() - 2)), GARBAGE)

    return _keeping_compared(record, lambda part: records.over(part, change))


def _longer(record: Any) -> Any:
    """The record with two places of padding more on the right; None where it has none at all."""
    filled = _filled(record)
    if bool(filled.all()):
        return None

    def change(name: str, tensor: Tensor) -> Tensor:
        if tensor.shape[:2] != filled.shape:
            return tensor
        value = -1 if name == "ranks" else torch.nan if name.startswith("ratings") else 0
        return pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, 2), value=value)

    return _keeping_compared(record, lambda part: records.over(part, change))


def _keeping_compared(record: Any, change: Callable[[Any], Any]) -> Any:
    """Changes all of a record but its comparisons, which have places and no padding."""
    if not isinstance(record, RankedScores):
        return change(record)
    return replace(change(replace(record, compared=None)), compared=record.compared)


def _left(tensor: Tensor, mask: Tensor) -> Tensor:
    """Rows rolled so that their padding is on the left."""
    shifts = (mask.shape[1] - mask.sum(1)).tolist()
    return torch.stack([row.roll(shift, 0) for row, shift in zip(tensor, shifts, strict=True)])
