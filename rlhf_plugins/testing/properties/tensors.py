"""Properties of every component that answers tensors, whatever it computes."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from rlhf_plugins.contract.records import MemberScores
from rlhf_plugins.errors import RlhfError
from rlhf_plugins.testing import records, tensor_trials
from rlhf_plugins.testing.conformance import holds_of
from rlhf_plugins.testing.subject import WIDTH, Broken, Subject, acting, expect, has, raised
from rlhf_plugins.testing.tensor_trials import TENSOR_KINDS, Answer, Case


def answered(subject: Subject, acts: Any, extreme: bool = False) -> Iterator[tuple[Case, Answer]]:
    """Each case that the component does not refuse, with its answer."""
    tried = tensor_trials.bench(subject.kind)
    for case in [*tried.cases(acts), *(tried.extremes(acts) if extreme else [])]:
        if (result := tensor_trials.answer(subject, acts, case)) is not None:
            yield case, result


def answered_by_row(subject: Subject, acts: Any) -> Iterator[tuple[Case, Answer]]:
    """The answers of `answered` with a row for each example; the property `shape` finds the others."""
    for case, result in answered(subject, acts):
        size = tensor_trials.bench(subject.kind).size(case[1])
        if all(part.dim() and len(part) == size for part in result.values()):
            yield case, result


@holds_of(*TENSOR_KINDS)
def can_be_built(subject: Subject) -> None:
    """What refuses to be built as a recipe has it by default is not tried at all, and seems to lack nothing."""
    made = subject.made()
    try:
        acting(subject.kind, made)
    except RlhfError as error:
        raise Broken(f"build, at width {WIDTH}", "what acts", raised(error)) from error


@holds_of(*TENSOR_KINDS)
def answers(subject: Subject) -> None:
    """A component that refuses every ordinary input cannot be used, and nothing else can be checked of it."""
    acts = subject.acting()
    tried = [words for words, _ in tensor_trials.bench(subject.kind).cases(acts)]
    expect(
        any(True for _ in answered(subject, acts)), "; ".join(tried), "an answer to one at least", "a refusal of all"
    )


@holds_of(*TENSOR_KINDS)
def shape(subject: Subject) -> None:
    """A shape that is wrong is broadcast further on: (B,) against (B, 1) is B x B, each example against every other."""
    for (words, record), result in answered(subject, subject.acting(), extreme=True):
        for name, wanted in tensor_trials.expected_shapes(subject.kind, record, result).items():
            came = f"{name} of shape {tuple(result[name].shape)}"
            expect(tuple(result[name].shape) == wanted, words, f"{name} of shape {wanted}{_per(subject)}", came)


def _per(subject: Subject) -> str:
    return f", one row a {tensor_trials.bench(subject.kind).per}"


@holds_of(*TENSOR_KINDS)
def dtype(subject: Subject) -> None:
    """Numbers of another precision round what is learned, or stop the step where tensors meet."""
    for (words, _), result in answered(subject, subject.acting()):
        for name, part in result.items():
            expect(part.dtype == torch.float32, f"{words}, in float32", f"{name} in float32", str(part.dtype))


@holds_of(*TENSOR_KINDS)
def finite(subject: Subject) -> None:
    """One NaN or infinity in a batch makes every weight NaN at the next step; such inputs do occur."""
    for (words, _), result in answered(subject, subject.acting(), extreme=True):
        for name, part in result.items():
            expect(bool(part.isfinite().all()), words, f"a finite {name}", records.shown(part))


@holds_of(*TENSOR_KINDS)
def batch_mates(subject: Subject) -> None:
    """What an example is worth must not hang on the examples that chance puts beside it.

    A component that does so by its nature says `uses_batch_mates = True`; one that compares a prompt's responses is
    tried with all of them.
    """
    acts = subject.acting()
    if _uses_mates(subject, acts):
        return
    for case, result in answered_by_row(subject, acts):
        for rows in _alone(subject, acts, case[1]):
            _alone_and_among(subject, acts, case, result, rows)


def _alone(subject: Subject, acts: Any, record: Any) -> list[list[int]]:
    """The smallest independent set of rows: one, or all of a prompt where siblings are compared."""
    size = tensor_trials.bench(subject.kind).size(record)
    if subject.kind == "advantage" or has(acts, "compares_siblings"):
        return [[i for i in range(size) if record.group[i] == g] for g in record.group.unique()]
    return [[i] for i in range(size)]


def _alone_and_among(subject: Subject, acts: Any, case: Case, result: Answer, rows: list[int]) -> None:
    words, record = case
    tried = f"{words}, number {' and '.join(str(row + 1) for row in rows)} alone and among the others"
    alone = tensor_trials.answer(subject, acts, (tried, records.pick(record, rows)))
    for name, part in result.items():
        apart = None if alone is None else alone.get(name)
        expect(apart is not None, tried, f"{name} both times", "a refusal when alone")
        if apart is not None and not records.equal(apart, part[rows], 1e-4):
            who = _followed(subject, acts, case, rows)
            came = f"{records.shown(apart)} alone, {records.shown(part[rows])} among them{who}"
            expect(False, tried, f"the same {name} both times", came)


def _followed(subject: Subject, acts: Any, case: Case, rows: list[int]) -> str:
    """Which inputs of the others the answer follows."""
    before = tensor_trials.answer(subject, acts, case) or {}
    found = []
    for field in records.flat(case[1]):
        after = tensor_trials.answer(subject, acts, (case[0], _others_changed(case[1], field, rows))) or {}
        if any(not records.equal(part[rows], after[name][rows]) for name, part in before.items() if name in after):
            found.append(f"`{field}`")
    return f"; it follows the others' {', '.join(found)}" if found else ""


def _others_changed(record: Any, field: str, rows: list[int]) -> Any:
    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name != field or not tensor.is_floating_point() or name == "accuracy":
            return tensor
        axis = 1 if isinstance(record, MemberScores) else 0
        own = torch.zeros(tensor.shape[axis], dtype=torch.bool).index_fill(0, torch.tensor(rows), True)
        return tensor.where(own if axis else own.view(-1, *[1] * (tensor.dim() - 1)), tensor + 1.0)

    return records.over(record, change)


def _uses_mates(subject: Subject, acts: Any) -> bool:
    return bool(has(acts, "uses_batch_mates"))


@holds_of(*TENSOR_KINDS)
def order(subject: Subject) -> None:
    """The order in a batch is chance: shuffled examples must have their own answers still, in the new order.

    Of a component that uses batch mates the mean alone must stay.
    """
    acts = subject.acting()
    for (words, record), result in answered_by_row(subject, acts):
        rows = list(range(tensor_trials.bench(subject.kind).size(record)))[::-1]
        tried = f"{words}, forwards and backwards"
        back = tensor_trials.answer(subject, acts, (tried, records.pick(record, rows))) or {}
        for name, part in result.items():
            wanted, came = part[rows], back.get(name)
            expect(came is not None, tried, f"{name} both times", "a refusal backwards")
            if came is not None and _uses_mates(subject, acts):
                wanted, came = wanted.mean(), came.mean()
            if came is not None:
                same = records.equal(came, wanted, 1e-4)
                expect(same, tried, f"{name} {records.shown(wanted)}", records.shown(came))


@holds_of(*TENSOR_KINDS)
def deterministic(subject: Subject) -> None:
    """A run can be repeated only if equal inputs and an equal seed give equal numbers."""
    acts = subject.acting()
    for case, result in answered(subject, acts):
        again = tensor_trials.answer(subject, acts, case) or {}
        for name, part in result.items():
            same = torch.equal(part.nan_to_num(), again[name].nan_to_num())
            came = f"{records.shown(part)}, then {records.shown(again[name])}"
            expect(same, f"{case[0]}, twice", f"the same {name} both times", came)


@holds_of(*TENSOR_KINDS)
def random_state(subject: Subject) -> None:
    """A component that seeds or draws from the global generators changes every draw of the run after it."""
    acts = subject.acting()
    for case in tensor_trials.bench(subject.kind).cases(acts):
        before = _states()
        tensor_trials.answer(subject, acts, case)
        changed = [name for name, state in _states().items() if state != before[name]]
        expect(not changed, case[0], "the global random states left alone", f"another state of {', '.join(changed)}")


def _states() -> dict[str, Any]:
    name, key, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "numpy": (name, np.asarray(key).tolist(), rest),
    }


@holds_of(*TENSOR_KINDS)
def unmutated(subject: Subject) -> None:
    """Inputs are shared: with the next loss of a sum, with metrics, with the backward pass."""
    acts = subject.acting()
    tried = tensor_trials.bench(subject.kind)
    for words, record in [*tried.cases(acts), *tried.extremes(acts)]:
        before = {name: tensor.clone() for name, tensor in records.flat(record).items()}
        tensor_trials.answer(subject, acts, (words, record))
        for name, tensor in records.flat(record).items():
            expect(records.equal(tensor, before[name], 0.0), words, f"`{name}` as it was", f"`{name}` changed in place")


@holds_of("pooling", "preference_loss")
def bfloat16(subject: Subject) -> None:
    """A base in bfloat16 gives hidden states and log-probabilities in bfloat16."""
    acts = subject.acting()
    for words, record in tensor_trials.bench(subject.kind).cases(acts):
        half = records.floats(record, lambda tensor: tensor.bfloat16())
        result = tensor_trials.answer(subject, acts, (f"{words}, in bfloat16", half)) or {}
        for name, part in result.items():
            expect(bool(part.isfinite().all()), f"{words}, in bfloat16", f"a finite {name}", records.shown(part))


@holds_of("pooling", "reward_loss", "preference_loss", "aggregation")
def autocast(subject: Subject) -> None:
    """Trainers ask within autocast where `bf16: true`; an operation that it rounds must do no harm.

    A head is exempt: it is always asked outside autocast.
    """
    acts = subject.acting()
    for case, result in answered(subject, acts):
        words = f"{case[0]}, under autocast to bfloat16"
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = tensor_trials.answer(subject, acts, (words, case[1])) or {}
        for name, part in result.items():
            came = cast.get(name, part * torch.nan)
            expect(records.equal(came, part, 0.05), words, f"{name} {records.shown(part)} to 5%", records.shown(came))


@holds_of(*TENSOR_KINDS)
def train_mode(subject: Subject) -> None:
    """Training asks in train mode, where the same must hold of shapes and of finite numbers."""
    acts = subject.acting()
    acts = copy.deepcopy(acts).train() if isinstance(acts, torch.nn.Module) else acts
    for (words, record), result in answered(subject, acts, extreme=True):
        for name, wanted in tensor_trials.expected_shapes(subject.kind, record, result).items():
            right = tuple(result[name].shape) == wanted and bool(result[name].isfinite().all())
            expect(right, f"{words}, in train mode", f"a finite {name} of shape {wanted}", records.shown(result[name]))
