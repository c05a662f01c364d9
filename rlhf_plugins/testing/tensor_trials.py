"""How a component that works on tensors is tried: with which inputs, how it is asked, what its answer should look like.

Inputs are few, small and the same every time; extreme ones are legal all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import Any

from torch import Tensor

from rlhf_plugins.contract.guards import unchecked
from rlhf_plugins.errors import ComponentError, RlhfError
from rlhf_plugins.testing import cases, tokens
from rlhf_plugins.testing.records import flat, over
from rlhf_plugins.testing.subject import Broken, Subject, raised

Case = tuple[str, Any]  # in words, and the record
Answer = dict[str, Tensor]


@dataclass(frozen=True)
class Bench:
    """How one kind is tried."""

    cases: Callable[[Any], list[Case]]  # ordinary inputs, given the component
    extremes: Callable[[Any], list[Case]]
    call: Callable[[Any, Any], Any]  # (what acts, record) -> its raw answer
    size: Callable[[Any], int]  # examples in a record
    learned: tuple[str, ...]  # prefixes of the inputs that a gradient flows into
    per: str = "example"


def bench(kind: str) -> Bench:
    """The bench of a kind that works on tensors. Raises KeyError for another."""
    return BENCHES[kind]


def answer(subject: Subject, acts: Any, case: Case) -> Answer | None:
    """The named tensors that it answers; None where it refuses the case with an error of ours.

    Raises:
        Broken: it fails, or answers no tensors.
    """
    words, record = case
    try:
        result = bench(subject.kind).call(acts, record)
    except ComponentError as error:  # of a part
        raise Broken(words, "an answer", raised(error)) from error
    except RlhfError:
        return None
    except Exception as error:
        raise Broken(words, "an answer", raised(error)) from error
    parts = named(result, subject.kind)
    if not parts or not all(isinstance(part, Tensor) for part in parts.values()):
        raise Broken(words, "tensors", type(result).__name__)
    return parts


def named(result: Any, kind: str) -> dict[str, Any]:
    """The parts of an answer by name."""
    if kind == "reward_head" and not is_dataclass(result):
        return {"reward": result}
    if not is_dataclass(result):
        return {NAMES.get(kind, "reward"): result}
    return flat(result)


def learned(subject: Subject, record: Any) -> dict[str, Tensor]:
    """The inputs that a gradient should flow into, by name; `prediction.reward` is `scores` itself."""
    prefixes = bench(subject.kind).learned
    return {
        name: tensor
        for name, tensor in flat(record).items()
        if tensor.is_floating_point() and name.startswith(prefixes) and name != "prediction.reward"
    }


def filled(record: Any, values: dict[str, Tensor]) -> Any:
    """The record with other tensors in some places."""

    def change(name: str, tensor: Tensor) -> Tensor:
        return values.get("scores" if name == "prediction.reward" else name, tensor)

    return over(record, change)


NAMES = {
    "reward_loss": "loss",
    "preference_loss": "loss",
    "policy_loss": "loss",
    "kl_estimator": "estimate",
    "pooling": "features",
}


def _alone(acts: Any, record: Any) -> Any:
    return unchecked(acts)(record)


def _pooled(acts: Any, record: cases.Hidden) -> Any:
    mask = record.response if acts.over == "response" else record.mask
    more = (record.sentences,) if acts.reads_sentences else ()
    return unchecked(acts)(record.hidden, mask, *more)


def _rewarded(acts: Any, record: cases.Features) -> Any:
    return unchecked(acts)(record.features, *([record.columns] if record.columns else []))


def _lost(acts: Any, record: tokens.Tokens) -> Any:
    more = (record.mask,) if acts.reads_mask else ()
    return unchecked(acts)(record.log_ratio, record.advantages, *more)


def _pull(acts: Any, record: tokens.Ratios) -> Any:
    """What the distance weighs at the strength that follows a KL of 12 nats over 1000 responses.

    It is times the share of some updates, each half as far as another, that are kept.
    """
    kept = [acts.accepts(2.0**power, before=0.0) for power in range(-8, 8)]
    strength = acts.adapted(acts.coef, 12.0, 1000) * sum(kept) / len(kept)
    return over(unchecked(acts)(record.log_ratio), lambda _, tensor: strength * tensor)


def _first(name: str) -> Callable[[Any], int]:
    return lambda record: len(getattr(record, name))


BENCHES = {
    "pooling": Bench(cases.hidden, cases.hidden_extremes, _pooled, _first("hidden"), ("hidden",), "sequence"),
    "reward_head": Bench(
        cases.features,
        cases.features_extremes,
        _rewarded,
        _first("features"),
        ("features",),
        "response",
    ),
    "reward_loss": Bench(
        cases.ranked,
        cases.ranked_extremes,
        _alone,
        _first("scores"),
        ("scores", "prediction."),
        "group",
    ),
    "preference_loss": Bench(
        cases.pairs,
        cases.pairs_extremes,
        _alone,
        _first("chosen"),
        ("chosen", "rejected", "entropies"),
        "pair",
    ),
    "advantage": Bench(
        cases.rollouts,
        cases.rollout_extremes,
        _alone,
        _first("scores"),
        (),
        "response",
    ),
    "policy_loss": Bench(
        tokens.tokens,
        tokens.token_extremes,
        _lost,
        _first("log_ratio"),
        ("log_ratio",),
        "response",
    ),
    "kl_estimator": Bench(
        tokens.ratios,
        tokens.ratio_extremes,
        lambda acts, record: unchecked(acts)(record.log_ratio),
        _first("log_ratio"),
        ("log_ratio",),
        "response",
    ),
    "kl": Bench(tokens.ratios, tokens.ratio_extremes, _pull, _first("log_ratio"), ("log_ratio",), "response"),
    "aggregation": Bench(
        cases.members,
        cases.members_extremes,
        _alone,
        _first("group"),
        ("rewards",),
        "response",
    ),
}
TENSOR_KINDS = tuple(BENCHES)


def expected_shapes(kind: str, record: Any, parts: Answer) -> dict[str, tuple[int, ...]]:
    """The shape that each part of an answer should have; what it may choose itself is taken from the answer."""
    size = bench(kind).size(record)
    if kind == "pooling":
        return {"features": (size, record.hidden.shape[2])}
    if kind == "advantage":
        return {name: tuple(record.mask.shape) for name in ("advantages", "returns")}
    if kind in ("policy_loss", "kl", "kl_estimator"):
        return dict.fromkeys(parts, tuple(record.log_ratio.shape))
    if kind == "reward_head":
        wide = {"quantiles", "members", "features"}
        return {name: (size, *part.shape[1:2]) if name in wide else (size,) for name, part in parts.items()}
    return dict.fromkeys(parts, (size,))
