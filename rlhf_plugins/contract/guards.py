"""Checks the answer of every call of a component. It knows which answers a kind allows, not what they mean.

Every call of a component, and of what it builds, goes through `answered`; it returns the checked answer or raises
ComponentError: who, what is wrong, where in whose code, and with the call itself, so that it can be saved and repeated.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from math import isfinite
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlhf_plugins.contract.component import Component
from rlhf_plugins.contract.records import Prediction, SamplerState
from rlhf_plugins.contract.rollout import Advantages, KLTerm, Rollout, ScoredResponses
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Alarm
from rlhf_plugins.errors import ComponentError, RlhfError, known

MAKER = "made_by"  # where a built object keeps the component that built it
MAY_BE_NAN = {"ratings"}  # NaN is a missing rating
ACTIONS = ("stop", "scale_lr", "scale_kl")  # of an alarm


@dataclass(frozen=True)
class Call:
    """A call that failed."""

    component: Any  # the component, or the object that it built
    inputs: tuple[Any, ...]
    building: bool = False  # `component.build(*inputs)`, not `component(*inputs)`


@dataclass(frozen=True)
class Made:
    """How something was built."""

    component: Any
    given: tuple[Any, ...]


class Wrong(Exception):
    """What is wrong, in words that follow the component's name."""


# ---- calls -----------------------------------------------------------------------------------------------
def answered(component: Any, function: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
    """function(component, *inputs), checked as the component's kind says. Raises ComponentError."""
    states = _random_states(inputs)
    try:
        return maker(component).checked(_attempt(function, component, *inputs), *inputs)
    except Wrong as wrong:
        for generator, state in states:
            generator.bit_generator.state = state  # so that the call can be repeated
        raise _blamed(Call(component, inputs), wrong) from wrong.__cause__


def built_by(component: Any, function: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    """function(component, *given), a `build`: what it makes inherits the traits, and its calls are checked too."""
    try:
        made = _attempt(function, component, *given)
        if not callable(made) and type(component).checked is not Component.checked:
            raise Wrong(f"built a {type(made).__name__}, which cannot be called")
    except Wrong as wrong:
        raise _blamed(Call(component, given, building=True), wrong) from wrong.__cause__
    if not callable(made):
        return made
    acts = _guarded_module(made) if isinstance(made, nn.Module) else Built(made)
    vars(acts).setdefault(MAKER, Made(component, given))  # past nn.Module, which would register a component's modules
    for name in component.traits:
        if not hasattr(made, name):
            vars(acts)[name] = getattr(component, name)
    return acts


class Built:
    """A function or object that a component built, with its calls checked; all else is the object's own."""

    def __init__(self, acts: Callable[..., Any]) -> None:
        self.acts = acts

    def __call__(self, *inputs: Any) -> Any:
        """The object's answer. Raises ComponentError."""
        return answered(self, lambda _, *given: self.acts(*given), inputs)

    def __getattr__(self, name: str) -> Any:
        if "acts" not in vars(self):  # while it is copied
            raise AttributeError(name)
        return getattr(self.acts, name)


def unchecked(acts: Any) -> Callable[..., Any]:
    """The call of a component, or of what it built, without checks."""
    if isinstance(acts, Component):
        call = inspect.unwrap(type(acts).__call__)
        return lambda *inputs: call(acts, *inputs)
    if isinstance(acts, Built):
        return acts.acts
    if not getattr(acts, "is_guarded", False):
        return lambda *inputs: acts(*inputs)
    call = type(acts).__mro__[1].__call__
    return lambda *inputs: call(acts, *inputs)


def _guarded_module(made: nn.Module) -> nn.Module:
    """The module itself, of a class that checks its calls."""
    cls: Any = type(made)
    made.__class__ = _guarded_class(cls)
    return made


@cache
def _guarded_class(cls: Any) -> type:
    if getattr(cls, "is_guarded", False):
        return cls

    def call(self: Any, *inputs: Any) -> Any:
        return answered(self, cls.__call__, inputs)

    own = {"__call__": call, "is_guarded": True, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (cls,), own)


def _attempt(function: Callable[..., Any], *inputs: Any) -> Any:
    try:
        return function(*inputs)
    except (RlhfError, Wrong, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise Wrong(f"failed: {type(error).__name__}: {error}") from error


def _blamed(call: Call, wrong: Wrong) -> ComponentError:
    where = place(call.component, wrong.__cause__)
    return ComponentError(f"{named(call.component)} {wrong} ({where})", call)


def _random_states(inputs: tuple[Any, ...]) -> list[tuple[np.random.Generator, Any]]:
    generators = [given.rng for given in inputs if isinstance(given, SamplerState)]
    return [(one, one.bit_generator.state) for one in generators if isinstance(one, np.random.Generator)]


# ---- what an answer may be -------------------------------------------------------------------------------
def tensor(component: Any, answer: Any, shape: tuple[int, ...], inputs: tuple[Any, ...]) -> Tensor:
    """A tensor of `shape`, finite and with a gradient if the inputs are and have one."""
    found = _of_shape(answer, shape)
    if not found.requires_grad and any(given.requires_grad for given in tensors(inputs).values()):
        _learns(found)
    _finite_if_inputs_are(component, found, inputs)
    return found


def prediction(component: Any, answer: Any, inputs: tuple[Any, ...]) -> Prediction:
    """The outputs of a head for features (B, width), every part of them with one row per response."""
    count, found = len(inputs[0]), answer if isinstance(answer, Prediction) else Prediction(answer)
    _of_shape(found.reward, (count,))
    for part in tensors((answer,)).values() if found is answer else ():
        _of_shape(part, (count, *part.shape[1:]))
    _learns(found.reward)
    _finite_if_inputs_are(component, found.reward, inputs)
    return found


def advantages(component: Any, answer: Any, rollout: Rollout) -> Advantages:
    """Advantages and returns, both (B, T) and finite if the rollout is."""
    if not isinstance(answer, Advantages):
        raise Wrong(f"gave a {type(answer).__name__}, not Advantages")
    for part in (answer.advantages, answer.returns):
        _finite_if_inputs_are(component, _of_shape(part, tuple(rollout.mask.shape)), (rollout,))
    return answer


def kl_term(component: Any, answer: Any, log_ratio: Tensor) -> KLTerm:
    """A KLTerm, (B, T) where it enters."""
    if not isinstance(answer, KLTerm):
        raise Wrong(f"gave a {type(answer).__name__}, not a KLTerm")
    for part in (answer.off_reward, answer.on_loss):
        if part is not None:
            _finite_if_inputs_are(component, _of_shape(part, tuple(log_ratio.shape)), (log_ratio,))
    if answer.on_loss is not None and log_ratio.requires_grad:
        _learns(answer.on_loss)
    return answer


def shaped(component: Any, answer: Any, scored: ScoredResponses) -> Tensor:
    """Rewards (B,), or (B, T) with T the longest response."""
    count, longest = len(scored.scores), int(scored.lengths.max())
    by_token = isinstance(answer, Tensor) and answer.shape == (count, longest) and answer.dim() == 2
    return tensor(component, answer, (count, longest) if by_token else (count,), (scored,))


def rewards(answer: Any, samples: Samples) -> Prediction:
    """Rewards of B samples in float32 on the CPU: a number each, None where it abstains, or a row of one a token."""
    if isinstance(answer, Prediction):
        return _predicted_rewards(answer, samples)
    try:
        given = list(answer)
        silent = torch.tensor([row is None for row in given], dtype=torch.bool)
        rows = [torch.as_tensor(0.0 if row is None else row, dtype=torch.float32).detach().cpu() for row in given]
    except Exception as error:  # an iterator may raise anything
        raise Wrong(f"gave {_shown(answer)}, not a number for each of {len(samples.responses)} responses") from error
    if any(row.dim() for row in rows):
        rows = [
            row if row.dim() or not out else row.new_zeros(len(ids))
            for row, out, ids in zip(rows, silent.tolist(), samples.response_ids, strict=False)
        ]
    if wrong := _misfit(rows, samples):
        raise Wrong(f"gave {wrong}")
    for response, row in zip(samples.responses, rows, strict=True):
        if not _finite(row):
            raise Wrong(f"gave {_worst(row)} for the response {response!r}")
    total = torch.stack([row.sum() for row in rows]) if rows else torch.zeros(0)
    tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows and rows[0].dim() else None
    return Prediction(total, tokens=tokens, abstained=silent if bool(silent.any()) else None)


def _predicted_rewards(answer: Prediction, samples: Samples) -> Prediction:
    _of_shape(answer.reward, (len(samples.responses),))
    kept = answer.reward if answer.abstained is None else answer.reward[~answer.abstained]
    if not _finite(kept):
        place = int((~answer.reward.isfinite()).nonzero()[0])
        raise Wrong(f"gave {answer.reward[place].item()} for the response {samples.responses[place]!r}")
    return answer


def indices(answer: Any, state: SamplerState) -> np.ndarray:
    """state.size rows of the examples."""
    if wrong := _wrong_rows(answer, state.size, len(state.remaining)):
        raise Wrong(f"gave {wrong}")
    found: np.ndarray = answer
    return found


def numbers(answer: Any) -> Mapping[str, float]:
    """Numbers by name; NaN is unmeasured."""
    if not isinstance(answer, Mapping):
        raise Wrong(f"gave a {type(answer).__name__}, not numbers by name")
    for name, value in answer.items():
        if not isinstance(name, str) or not isinstance(value, Real):
            raise Wrong(f"gave {name!r}: {_shown(value)}, not a number by its name")
    return answer


def alarm(answer: Any) -> Alarm | None:
    """An Alarm whose action can be taken, or None."""
    if answer is None:
        return None
    if not isinstance(answer, Alarm):
        raise Wrong(f"gave a {type(answer).__name__}, not an Alarm or None")
    if answer.action not in (None, *ACTIONS):
        raise Wrong(f"gave an alarm with the unknown action {answer.action!r} {known(str(answer.action), ACTIONS)}")
    if not (isinstance(answer.factor, Real) and isfinite(answer.factor) and answer.factor > 0):
        raise Wrong(f"gave an alarm with the factor {answer.factor!r}, not a number above 0")
    rate = answer.false_alarm_rate
    if rate is not None and not (isinstance(rate, Real) and 0 <= rate <= 1):
        raise Wrong(f"gave an alarm with the false alarm rate {rate!r}, not a number from 0 to 1")
    return answer


def term(component: Any, answer: Any) -> Tensor:
    """A finite scalar with a gradient, to be added to a loss."""
    found = _of_shape(answer, ())
    _learns(found)
    _finite_if_inputs_are(component, found, ())
    return found


# ---- whom to blame ---------------------------------------------------------------------------------------
def maker(component: Any) -> Any:
    """The component that built this, or itself."""
    made = getattr(component, MAKER, None)
    return made.component if isinstance(made, Made) else component


def named(component: Any) -> str:
    """What messages call a component: its class, and the module where to look for it."""
    by = maker(component)
    component = component.acts if isinstance(component, Built) else component
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


def _of_shape(answer: Any, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(answer, Tensor):
        raise Wrong(f"gave a {type(answer).__name__}, not a tensor")
    if answer.shape != shape:
        raise Wrong(f"gave shape {tuple(answer.shape)}, not {shape}")
    return answer


def _learns(answer: Tensor) -> None:
    if torch.is_grad_enabled() and not answer.requires_grad:
        raise Wrong("gave numbers without a gradient, from which nothing is learned")


def _finite_if_inputs_are(component: Any, answer: Tensor, inputs: tuple[Any, ...]) -> None:
    """Refuses NaN and infinity where all inputs and the component's own weights are finite."""
    if _finite(answer):
        return
    weights = component.parameters() if isinstance(component, nn.Module) else ()
    if all(map(_finite, (*tensors(inputs).values(), *weights))):
        raise Wrong(f"made {_worst(answer)} of finite numbers")


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
    component = component.acts if isinstance(component, Built) else component
    name = "forward" if isinstance(component, nn.Module) else "__call__"
    for function in (component, getattr(type(component), name, None), getattr(type(by), "build", None)):
        if code := getattr(inspect.unwrap(function) if callable(function) else None, "__code__", None):
            yield code
