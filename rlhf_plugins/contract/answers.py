"""Checks of what components return: its type, shape, finite numbers and gradient.

There is one function for each kind of answer; `checked` of the kind's base class calls it. It returns the answer, or
raises Wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from math import isfinite
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlhf_plugins.contract.records import Prediction, SamplerState, Verdict
from rlhf_plugins.contract.reward_rows import Wrong, refuse_whole, scores_of
from rlhf_plugins.contract.rollout import Advantages, KLTerm, Rollout, ScoredResponses
from rlhf_plugins.contract.rows import Data, Samples, Text
from rlhf_plugins.contract.run import Alarm
from rlhf_plugins.contract.selection import Choice, Situation
from rlhf_plugins.errors import nearest

MAY_BE_NAN = {"ratings"}  # NaN is a missing rating
ACTIONS = ("stop", "end", "scale_lr", "scale_kl")  # that an alarm may ask for
STATUSES = ("judged", "abstained", "failed")  # that a verdict may have


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
    if found.members is not None and found.members.shape[-1] != component.members:
        raise Wrong(f"predicts {found.members.shape[-1]} members, and says that they are {component.members}")
    _learns(found.reward)
    for part in tensors((found,)).values():
        _finite_if_inputs_are(component, part, inputs)
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
    """Rewards of B samples in float32 on the CPU: a number each, None where it abstains, or a row of one a token.

    Where a dict is given for a response, its `score` is this, and its further numbers are dimensions, NaN where a
    response has none.
    """
    if isinstance(answer, Prediction):
        return _predicted_rewards(answer, samples)
    refuse_whole(answer, len(samples.responses))
    try:
        given, parts = scores_of(list(answer), samples.responses)
        silent = torch.tensor([row is None for row in given], dtype=torch.bool)
        rows = [torch.as_tensor(0.0 if row is None else row, dtype=torch.float32).detach().cpu() for row in given]
    except Wrong:
        raise
    except Exception as error:  # an iterator may raise anything
        raise Wrong(f"gave {_shown(answer)}, not a number for each of {len(samples.responses)} responses") from error
    if len(given) != (count := len(samples.responses)):
        raise Wrong(f"gave {len(given)} number{'s' * (len(given) != 1)} for {count} responses")
    if any(row.dim() for row in rows):
        rows = [
            row if row.dim() or not out else row.new_zeros(len(ids))
            for row, out, ids in zip(rows, silent.tolist(), samples.response_ids, strict=True)
        ]
    if wrong := _misfit(rows, samples):
        raise Wrong(f"gave {wrong}")
    for response, row in zip(samples.responses, rows, strict=True):
        if not _finite(row):
            raise Wrong(f"gave {_worst(row)} for the response {response!r}")
    total = torch.stack([row.sum() for row in rows]) if rows else torch.zeros(0)
    tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows and rows[0].dim() else None
    dimensions = {name: torch.tensor(values, dtype=torch.float32) for name, values in parts.items()}
    return Prediction(total, dimensions=dimensions, tokens=tokens, abstained=silent if bool(silent.any()) else None)


def _predicted_rewards(answer: Prediction, samples: Samples) -> Prediction:
    count, longest = len(samples.responses), max(map(len, samples.response_ids), default=0)
    plain: dict[str, Any] = {name: _plain(part) for name, part in vars(answer).items() if isinstance(part, Tensor)}
    found = replace(answer, **plain)
    for part in tensors((found,)).values():
        _of_shape(part, (count, *part.shape[1:]))
    _of_shape(found.reward, (count,))
    if found.abstained is not None and _of_shape(found.abstained, (count,)).dtype != torch.bool:
        raise Wrong(f"gave `abstained` as {found.abstained.dtype}, not bool")
    if found.tokens is not None:
        found = replace(found, tokens=_by_token(_of_shape(found.tokens, (count, longest)), samples))
    heard = torch.ones(count, dtype=torch.bool) if found.abstained is None else ~found.abstained
    for each in (found.reward, found.tokens):
        if each is not None and (bad := heard & ~each.isfinite().reshape(count, -1).all(1)).any():
            row = int(bad.nonzero()[0])
            raise Wrong(f"gave {_worst(each[row].reshape(-1))} for the response {samples.responses[row]!r}")
    for name, part in found.dimensions.items():
        if bool((heard & part.isinf().reshape(count, -1).any(1)).any()):
            raise Wrong(f"gave an infinite {name!r}, which is one of its dimensions")
    if found.tokens is not None and not torch.allclose(found.tokens.sum(1)[heard], found.reward[heard], 1e-3, 1e-4):
        raise Wrong("gave rewards that are not the sums of their tokens' rewards")
    return found


def _plain(part: Tensor) -> Tensor:
    """The tensor on the CPU, without gradient; numbers in float32."""
    moved = part.detach().cpu()
    return moved if not moved.is_floating_point() else moved.float()


def _by_token(tokens: Tensor, samples: Samples) -> Tensor:
    """Rewards of tokens (B, T), 0 behind each response."""
    lengths = torch.tensor([len(ids) for ids in samples.response_ids])
    return tokens.masked_fill(torch.arange(tokens.shape[1]) >= lengths.unsqueeze(1), 0.0)


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
        raise Wrong(f"gave an alarm with the unknown action {answer.action!r} {nearest(str(answer.action), ACTIONS)}")
    if not (isinstance(answer.factor, Real) and isfinite(answer.factor) and answer.factor > 0):
        raise Wrong(f"gave an alarm with the factor {answer.factor!r}, not a number above 0")
    rate = answer.false_alarm_rate
    if rate is not None and not (isinstance(rate, Real) and 0 <= rate <= 1):
        raise Wrong(f"gave an alarm with the false alarm rate {rate!r}, not a number from 0 to 1")
    return answer


def verdicts(answer: Any, count: int) -> list[Verdict]:
    """`count` verdicts, each with a probability exactly where it is judged."""
    if isinstance(answer, str) or not isinstance(answer, Sequence):
        raise Wrong(f"gave a {type(answer).__name__}, not a Verdict for each of {count} prompts")
    if len(answer) != count:
        raise Wrong(f"gave {len(answer)} verdicts for {count} prompts")
    for row, given in enumerate(answer):
        if not isinstance(given, Verdict):
            raise Wrong(f"gave a {type(given).__name__} for prompt {row}, not a Verdict")
        if given.status not in STATUSES:
            raise Wrong(
                f"gave a verdict with the unknown status {given.status!r} {nearest(str(given.status), STATUSES)}"
            )
        if (given.status == "judged") != (given.probability is not None):
            raise Wrong(f"gave a verdict that is {given.status} with the probability {given.probability!r}")
        if given.probability is not None and not 0 <= given.probability <= 1:
            raise Wrong(f"gave the probability {given.probability!r}, not a number from 0 to 1")
    return list(answer)


def turns(answer: Any, samples: Samples) -> list[Text | None]:
    """What follows each response: text behind a text, text or messages behind messages, None at the end."""
    count = len(samples.responses)
    if isinstance(answer, str) or not isinstance(answer, Sequence):
        raise Wrong(f"gave a {type(answer).__name__}, not a text or None for each of {count} responses")
    if len(answer) != count:
        raise Wrong(f"gave {len(answer)} turns for {count} responses")
    for row, (given, prompt) in enumerate(zip(answer, samples.prompts, strict=True)):
        if given is None or (isinstance(given, str) and given):
            continue
        if isinstance(prompt, str) or not _are_messages(given):
            wanted = "a text" if isinstance(prompt, str) else "a text, messages"
            raise Wrong(f"gave {_shown(given)} behind response {row}, not {wanted} or None")
        if given[-1]["role"] == "assistant":
            raise Wrong(f"ended its turn behind response {row} with the assistant, whose next words are the policy's")
    return list(answer)


def _are_messages(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and all(isinstance(m, dict) and "role" in m for m in given)


def shares(answer: Any) -> list[float]:
    """Numbers from 0 to 1, two or more."""
    if isinstance(answer, str) or not isinstance(answer, Sequence) or len(answer) < 2:
        raise Wrong(f"gave a {type(answer).__name__}, not a number for each of two rows or more")
    for row, given in enumerate(answer):
        if isinstance(given, bool) or not isinstance(given, Real) or not 0 <= float(given) <= 1:
            raise Wrong(f"gave {given!r} for row {row}, not a number from 0 to 1")
    return [float(given) for given in answer]


def policy(made: Any) -> None:
    """What a generator builds: something that answers prompts; the rest of a Policy is asked for where it is used."""
    if not callable(getattr(made, "sample", None)):
        raise Wrong(f"built a {type(made).__name__}, which is no Policy: it has no `sample`")


def term(component: Any, answer: Any) -> Tensor:
    """A finite scalar with a gradient, to be added to a loss."""
    found = _of_shape(answer, ())
    _learns(found)
    _finite_if_inputs_are(component, found, ())
    return found


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


def choices(answer: Any, situation: Situation) -> list[Choice]:
    """Every algorithm of a situation once, with scores that are numbers within their intervals."""
    found = list(answer) if isinstance(answer, list | tuple) else [answer]
    if other := [one for one in found if not isinstance(one, Choice)]:
        raise Wrong(f"gave a {type(other[0]).__name__}, not a list of Choice")
    names, known_names = [one.algorithm for one in found], list(situation.algorithms)
    if sorted(names) != sorted(known_names):
        raise Wrong(f"ranked {', '.join(names) or 'nothing'}, not each of {', '.join(known_names)} once")
    for one in found:
        numbers = [value for value in (one.low, one.score, one.high) if value is not None]
        if not all(isinstance(value, Real) and isfinite(value) for value in numbers) or numbers != sorted(numbers):
            raise Wrong(f"expects {one.score} of {one.algorithm}, from {one.low} to {one.high}")
    return found


def prepared(answer: Any, before: Data) -> Data:
    """Data whose held-out rows are as they were, and that counts every training row that is gone."""
    if not isinstance(answer, Data):
        raise Wrong(f"gave a {type(answer).__name__}, not Data")
    for name in ("test", "out_of_distribution"):
        if getattr(answer, name) != getattr(before, name):
            raise Wrong(f"changed the held-out rows `{name}`, so that numbers on them mean something else")
    gone = len(before.train) - len(answer.train)
    counted = sum(answer.dropped.values()) - sum(before.dropped.values())
    if gone > counted:
        raise Wrong(f"left out {gone} training rows, and counts {counted} of them in `dropped`")
    return answer


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
    """A finite sum settles it quickly, since NaN and infinity have none; a sum that overflowed is checked in full."""
    values = values.detach()
    return isfinite(values.sum().item()) or bool(values.isfinite().all())


def _worst(values: Tensor) -> float:
    """The first number that is not finite."""
    return float(values.detach()[~values.isfinite()][0])


def _misfit(rows: list[Tensor], samples: Samples) -> str | None:
    """What is wrong with the shapes of a reward's answer, one row per response; None when they fit."""
    for row, length in zip(rows, map(len, samples.response_ids), strict=True):
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
