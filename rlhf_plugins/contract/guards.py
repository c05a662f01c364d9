"""What a component may answer when it is called. It knows what to say, not what is computed.

A guard calls a component and gives back its answer, or raises ComponentError: who, what is wrong, where in whose code,
and with the call itself, so that it can be saved and done again. A component calls those that it holds through guards
too, so that each is blamed for its own faults.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from math import isfinite
from numbers import Real
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from rlhf_plugins.contract.interfaces import Draw, Prediction, RankedScores, Samples, ScoredPairs
from rlhf_plugins.contract.rollout import Advantages, Pull, Rollout
from rlhf_plugins.errors import ComponentError, RlhfError

P = ParamSpec("P")
R = TypeVar("R")
MAKER = "made_by"  # where a built thing keeps the component that built it
MAY_BE_NAN = {"ratings"}  # NaN is a missing rating


@dataclass(frozen=True)
class Call:
    """What a guard was asked to do."""

    guard: str
    component: Any  # what was called
    inputs: tuple[Any, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Made:
    """How something was built."""

    component: Any
    given: tuple[Any, ...]


class _Wrong(Exception):
    """What is wrong, in words that follow the component's name."""


def _guard(function: Callable[P, R]) -> Callable[P, R]:
    @wraps(function)
    def guarded(*given: P.args, **options: P.kwargs) -> R:
        try:
            return function(*given, **options)
        except _Wrong as wrong:
            component, *inputs = given
            call = Call(function.__name__, component, tuple(inputs), options)
            where = place(component, wrong.__cause__)
            raise ComponentError(f"{named(component)} {wrong} ({where})", call) from wrong.__cause__

    return guarded


@_guard
def asked(component: Any, *inputs: Any, shape: tuple[int, ...]) -> Tensor:
    """What a component answers: a tensor of `shape`, finite and with a gradient if its inputs are and have one.

    Args:
        component: a loss, a pooling, an aggregation: anything that is called.
        inputs: tensors, or records of tensors.

    Raises:
        ComponentError: it fails or answers anything else; the message names its class.
    """
    answer = _tensor(_answer(component, *inputs), shape)
    if not answer.requires_grad and any(tensor.requires_grad for tensor in tensors(inputs).values()):
        _learns(answer)
    _sound(component, answer, inputs)
    return answer


@_guard
def called(component: Any, *inputs: Any) -> Any:
    """component(*inputs). Raises ComponentError when it raises anything that is not ours."""
    return _answer(component, *inputs)


@_guard
def built(component: Any, *given: Any) -> Any:
    """What component.build(*given) makes; it remembers who made it, so that its faults are told by that name."""
    made = _answer(lambda *needed: component.build(*needed), *given)
    if not callable(made):
        raise _Wrong(f"built a {type(made).__name__}, which cannot be called")
    if hasattr(made, "__dict__"):
        vars(made)[MAKER] = Made(component, given)  # past nn.Module, which would take a component for a part
    return made


@_guard
def predicted(head: Any, features: Tensor) -> Prediction:
    """What a built head says of features (B, width), every part of it with one row a response.

    Raises:
        ComponentError: as `asked` does.
    """
    said = _answer(head, features)
    prediction = said if isinstance(said, Prediction) else Prediction(said)
    _tensor(prediction.reward, (len(features),))
    for part in tensors((said,)).values() if prediction is said else ():
        _tensor(part, (len(features), *part.shape[1:]))
    _learns(prediction.reward)
    _sound(head, prediction.reward, (features,))
    return prediction


@_guard
def estimated(advantage: Any, rollout: Rollout) -> Advantages:
    """What an estimator makes of a rollout, both (B, T) and finite if the rollout is.

    Raises:
        ComponentError: it fails or answers anything else.
    """
    estimate = _answer(advantage, rollout)
    if not isinstance(estimate, Advantages):
        raise _Wrong(f"gave a {type(estimate).__name__}, not Advantages")
    for part in (estimate.advantages, estimate.returns):
        _tensor(part, tuple(rollout.mask.shape))
        _sound(advantage, part, (rollout,))
    return estimate


@_guard
def pulled(kl: Any, log_ratio: Tensor) -> Pull:
    """What a pull towards the reference weighs, (B, T) where it acts. Raises ComponentError as `asked` does."""
    pull = _answer(kl, log_ratio)
    if not isinstance(pull, Pull):
        raise _Wrong(f"gave a {type(pull).__name__}, not a Pull")
    for part in (pull.off_reward, pull.on_loss):
        if part is not None:
            _sound(kl, _tensor(part, tuple(log_ratio.shape)), (log_ratio,))
    if pull.on_loss is not None and log_ratio.requires_grad:
        _learns(pull.on_loss)
    return pull


@_guard
def rewarded(reward: Any, samples: Samples) -> list[Tensor]:
    """The rewards of B samples in float32: a number each (), or a row of one each with a number a token (tokens,).

    Raises:
        ComponentError: they are not B finite numbers, nor B rows of finite numbers.
    """
    said = _answer(reward, samples)
    try:
        rows = [torch.as_tensor(row, dtype=torch.float32).detach().cpu() for row in said]
    except Exception as error:  # an iterator may raise anything
        raise _Wrong(f"gave {_shown(said)}, not a number for each of {len(samples.responses)} responses") from error
    if wrong := _misfit(rows, samples):
        raise _Wrong(f"gave {wrong}")
    for response, row in zip(samples.responses, rows, strict=True):
        if not _finite(row):
            raise _Wrong(f"gave {_worst(row)} for the response {response!r}")
    return rows


@_guard
def drawn(sampler: Any, draw: Draw) -> np.ndarray:
    """The rows of the next batch, (draw.size,). Raises ComponentError unless they are rows of the examples."""
    before = draw.rng.bit_generator.state
    try:
        rows = _answer(sampler, draw)
        if wrong := _wrong_rows(rows, draw.size, len(draw.remaining)):
            raise _Wrong(f"gave {wrong}")
    except _Wrong:
        draw.rng.bit_generator.state = before  # so that the call can be done again
        raise
    found: np.ndarray = rows
    return found


@_guard
def measured(metric: Any, pairs: ScoredPairs) -> Mapping[str, float]:
    """A metric's numbers by name. Raises ComponentError when it fails or gives anything else; NaN is unmeasured."""
    numbers = _answer(metric, pairs)
    if not isinstance(numbers, Mapping):
        raise _Wrong(f"gave a {type(numbers).__name__}, not numbers by name")
    for name, value in numbers.items():
        if not isinstance(name, str) or not isinstance(value, Real):
            raise _Wrong(f"gave {name!r}: {_shown(value)}, not a number by its name")
    return numbers


def group_losses(loss: Any, scores: RankedScores) -> Tensor:
    """What a reward loss says of each group, (groups,). Raises ComponentError as `asked` does."""
    return asked(loss, scores, shape=(len(scores.scores),))


GUARDS: dict[str, Callable[..., Any]] = {
    guard.__name__: guard for guard in (asked, called, built, predicted, estimated, pulled, rewarded, drawn, measured)
}


def maker(component: Any) -> Any:
    """The component that built this, or itself."""
    made = getattr(component, MAKER, None)
    return made.component if isinstance(made, Made) else component


def named(component: Any) -> str:
    """What messages call a component: its class, and the module where to look for it."""
    by = maker(component)
    said = getattr(component, "__qualname__", None) or type(component).__qualname__
    said = f"{said} of {getattr(component, '__module__', None) or type(component).__module__}"
    return said if by is component else f"{said}, built by {type(by).__qualname__} of {type(by).__module__},"


def place(component: Any, error: BaseException | None = None) -> str:
    """Where to look, as `file:line`: the line of its own code that raised, or where what answered begins."""
    by = maker(component)
    file = getattr(sys.modules.get(type(by).__module__), "__file__", None)
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    if lines := [frame.lineno for frame in frames if frame.filename == file]:
        return f"{file}:{lines[-1]}"
    codes = list(_codes(component, by))
    code = next((code for code in codes if code.co_filename == file), codes[0] if codes else None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else str(file)


def tensors(inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """The tensors among the inputs and in those that are records, by name; not those in which NaN means missing."""
    found: dict[str, Tensor] = {}
    for place, value in enumerate(inputs):
        if isinstance(value, Tensor):
            found[f"input {place}"] = value
        elif is_dataclass(value):
            found |= _within(value)
    return found


def _within(record: Any) -> dict[str, Tensor]:
    name, found = type(record).__name__, {}
    for item in fields(record):
        value = getattr(record, item.name)
        if isinstance(value, Tensor):
            found[f"{name}.{item.name}"] = value
        elif is_dataclass(value):
            found |= _within(value)
        elif isinstance(value, Mapping) and item.name not in MAY_BE_NAN:
            found |= {f"{name}.{item.name}.{key}": v for key, v in value.items() if isinstance(v, Tensor)}
    return found


def _answer(component: Any, *inputs: Any) -> Any:
    try:
        return component(*inputs)
    except (RlhfError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise _Wrong(f"failed: {type(error).__name__}: {error}") from error


def _tensor(answer: Any, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(answer, Tensor):
        raise _Wrong(f"gave a {type(answer).__name__}, not a tensor")
    if answer.shape != shape:
        raise _Wrong(f"gave shape {tuple(answer.shape)}, not {shape}")
    return answer


def _learns(answer: Tensor) -> None:
    if torch.is_grad_enabled() and not answer.requires_grad:
        raise _Wrong("gave numbers without a gradient, from which nothing is learned")


def _sound(component: Any, answer: Tensor, inputs: tuple[Any, ...]) -> None:
    """Refuses NaN and infinity where all inputs and the component's own weights are finite."""
    if _finite(answer):
        return
    weights = component.parameters() if isinstance(component, nn.Module) else ()
    if all(map(_finite, (*tensors(inputs).values(), *weights))):
        raise _Wrong(f"made {_worst(answer)} of finite numbers")


def _finite(values: Tensor) -> bool:
    """Of what is not finite the sum is not either, and is had sooner; finite numbers may have a sum that is not."""
    values = values.detach()
    return isfinite(values.sum().item()) or bool(values.isfinite().all())


def _worst(values: Tensor) -> float:
    """The first number that is not finite."""
    return float(values[~values.isfinite()][0])


def _misfit(rows: list[Tensor], samples: Samples) -> str | None:
    """What is wrong with the shapes of a reward's answer; None when they fit."""
    count, lengths = len(samples.responses), [len(ids) for ids in samples.response_ids]
    if len(rows) != count:
        return f"numbers of shape ({len(rows)},) for {count} responses"
    for row, length in zip(rows, lengths, strict=True):
        if row.shape not in ((), (length,)):
            return f"numbers of shape {tuple(row.shape)} for a response of {length} tokens: one, or one a token"
    return None if len({row.dim() for row in rows}) == 1 else "numbers to some responses and rows of them to others"


def _wrong_rows(rows: object, size: int, examples: int) -> str | None:
    """What is wrong with a sampler's answer; None when it is `size` rows of `examples`."""
    if not isinstance(rows, np.ndarray):
        return f"a {type(rows).__name__}, not an array"
    if rows.shape != (size,) or rows.dtype.kind not in "iu":
        return f"shape {rows.shape} of {rows.dtype}, not ({size},) integers"
    outside = [row for row in rows.tolist() if not 0 <= row < examples]
    return f"row {outside[0]} of {examples} examples" if outside else None


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _codes(component: Any, by: Any) -> Iterator[Any]:
    """The code of what was called, and of what built it."""
    name = "forward" if isinstance(component, nn.Module) else "__call__"
    for function in (component, getattr(type(component), name, None), getattr(type(by), "build", None)):
        if code := getattr(inspect.unwrap(function) if callable(function) else None, "__code__", None):
            yield code
