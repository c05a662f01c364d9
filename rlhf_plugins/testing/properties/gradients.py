"""Properties of gradients: they reach what should learn, nothing else, and are those of the function."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_plugins.testing import records, tensor_trials
from rlhf_plugins.testing.conformance import holds_of
from rlhf_plugins.testing.properties.tensors import answered_by_row
from rlhf_plugins.testing.subject import Broken, Subject, expect, has
from rlhf_plugins.testing.tensor_trials import Answer, Case

LEARNERS = ("pooling", "reward_head", "reward_loss", "preference_loss", "aggregation", "policy_loss", "kl_estimator")


def gradients(subject: Subject, acts: Any, case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
    """Gradients of a random sum of the answer, by input and by weight; None where the case is refused."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensor_trials.learned(subject, case[1]).items()}
    weights = dict(acts.named_parameters()) if isinstance(acts, nn.Module) else {}
    result = tensor_trials.answer(subject, acts, (case[0], tensor_trials.filled(case[1], leaves)))
    if result is None:
        return None
    total = _summed(result)
    expect(total.requires_grad, case[0], "an answer with a gradient", "a tensor without one")
    asked = [*leaves.values(), *weights.values()]
    found = torch.autograd.grad(total, asked, allow_unused=True)
    whole = [torch.zeros_like(x) if grad is None else grad for x, grad in zip(asked, found, strict=True)]
    return dict(zip(leaves, whole, strict=False)), dict(zip(weights, whole[len(leaves) :], strict=True))


def _summed(result: Answer) -> Tensor:
    """The parts added up with unlike factors, so that nothing cancels."""
    parts = [part for part in result.values() if part.requires_grad] or list(result.values())
    return torch.stack([(part * torch.linspace(1, 2, part.numel()).view(part.shape)).sum() for part in parts]).sum()


def _no_gradient(acts: Any) -> bool:
    """An aggregation that counts has none, and is refused where something is trained through it."""
    return bool(has(acts, "compares_siblings"))


@holds_of(*LEARNERS)
def gradient_reaches(subject: Subject) -> None:
    """What gets no gradient learns nothing, and the loss falls all the same, or stays, without a word."""
    acts = subject.acting()
    if _no_gradient(acts):
        return
    reached: dict[str, Tensor] = {}
    words = []
    for case in tensor_trials.bench(subject.kind).cases(acts):
        if (found := gradients(subject, acts, case)) is not None:
            words.append(case[0])
            for name, grad in {**_places(subject, case[1], found[0]), **_weights(found[1])}.items():
                reached[name] = reached.get(name, torch.zeros(())) + grad
    partly = has(acts, "holds_constant") and any(size > 0 for size in reached.values())
    for name, size in reached.items() if not partly else ():
        expect(bool(size > 0), "; ".join(words), f"a gradient for {name}", "a gradient of 0 in every case")


def _weights(grads: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"the weights `{name}`": grad.abs().sum() for name, grad in grads.items()}


def _places(subject: Subject, record: Any, grads: dict[str, Tensor]) -> dict[str, Tensor]:
    """How much gradient each place gets that should get some."""
    if subject.kind != "reward_loss":
        return {f"`{name}`": grad.abs().sum() for name, grad in grads.items()}
    size = record.scores.shape
    each = torch.stack([grad.abs().reshape(*size, -1).sum(-1) for grad in grads.values()]).sum(0)
    return {"the first responses' outputs": each[:, 0].sum(), "the other responses' outputs": each[:, 1:].sum()}


@holds_of(*LEARNERS)
def gradient_is_finite(subject: Subject) -> None:
    """A loss may be finite where its gradient is not: sqrt at 0, a norm of zeros, log of an underflow."""
    acts = subject.acting()
    for case in tensor_trials.bench(subject.kind).extremes(acts):
        if _no_gradient(acts) or (found := gradients(subject, acts, case)) is None:
            continue
        for name, grad in {**found[0], **found[1]}.items():
            expect(bool(grad.isfinite().all()), case[0], f"a finite gradient of `{name}`", records.shown(grad))


@holds_of("reward_loss", "preference_loss", "pooling", "reward_head")
def gradient_stays(subject: Subject) -> None:
    """The gradient of one example's number must reach that example alone, or others are pushed by its errors.

    A component that uses batch mates is exempt.
    """
    acts = subject.acting()
    if has(acts, "uses_batch_mates"):
        return
    for case, _ in answered_by_row(subject, acts):
        leaves = {
            name: tensor.clone().requires_grad_() for name, tensor in tensor_trials.learned(subject, case[1]).items()
        }
        result = tensor_trials.answer(subject, acts, (case[0], tensor_trials.filled(case[1], leaves))) or {}
        first = torch.stack([part[0].sum() for part in result.values()]).sum()
        if first.requires_grad:
            found = torch.autograd.grad(first, list(leaves.values()), allow_unused=True)
            for name, grad in zip(leaves, found, strict=True):
                stays = grad is None or not bool(grad[1:].any())
                expect(stays, f"{case[0]}, the first one's number", f"no gradient for the others' `{name}`", "one")


@holds_of(*LEARNERS)
def gradcheck(subject: Subject) -> None:
    """A gradient that is not the function's own, by a `detach` or a wrong backward, leads somewhere else.

    A component that holds a part constant on purpose says `holds_constant = True`.
    """
    acts = subject.acting()
    if _no_gradient(acts) or has(acts, "holds_constant"):
        return
    acts = acts.double() if isinstance(acts, nn.Module) else acts
    for words, record in tensor_trials.bench(subject.kind).cases(acts):
        double = records.floats(record, lambda tensor: tensor.double())
        _agrees(subject, acts, (f"{words}, in float64", double))


def _agrees(subject: Subject, acts: Any, case: Case) -> None:
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensor_trials.learned(subject, case[1]).items()}
    result = tensor_trials.answer(subject, acts, (case[0], tensor_trials.filled(case[1], leaves)))
    if result is None:
        return
    for name, part in result.items():
        expect(part.dtype == torch.float64, case[0], f"{name} in float64", str(part.dtype))

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        again = tensor_trials.answer(
            subject, acts, (case[0], tensor_trials.filled(case[1], dict(zip(leaves, values, strict=True))))
        )
        return tuple(part for part in (again or {}).values() if part.requires_grad)

    try:
        torch.autograd.gradcheck(function, tuple(leaves.values()), fast_mode=True)
    except Broken:
        raise
    except RuntimeError as error:
        raise Broken(case[0], "the gradient that finite differences give", _difference(error, list(leaves))) from error


def _difference(error: RuntimeError, names: list[str]) -> str:
    where = re.search(r"input (\d+)", str(error))
    which = f" of `{names[int(where.group(1))]}`" if where else ""
    return f"another gradient{which}"
