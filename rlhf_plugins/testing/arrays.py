"""How a sampler and a metric are tried: the draws and the scored pairs that they are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from rlhf_plugins.contract.guards import unchecked
from rlhf_plugins.contract.records import SamplerState, ScoredPairs
from rlhf_plugins.contract.rows import Rewrite
from rlhf_plugins.errors import RlhfError
from rlhf_plugins.testing.subject import Broken, Subject, raised

KINDS = ("sampler", "metric")
SIZE, EXAMPLES, PAIRS = 8, 48, 40


def cases(kind: str) -> list[tuple[str, Any]]:
    """Ordinary inputs of a kind, in words and as a record."""
    return _draws() if kind == "sampler" else _pairs()


def extremes(kind: str) -> list[tuple[str, Any]]:
    """Legal inputs that are rare: nothing known, everything equal, a single one."""
    return _rare_draws() if kind == "sampler" else _rare_pairs()


def _draws() -> list[tuple[str, SamplerState]]:
    rng = np.random.default_rng(0)
    loss = rng.exponential(size=EXAMPLES)
    loss[::5] = np.nan
    remaining = rng.random(EXAMPLES) < 0.7
    draw = SamplerState(
        SIZE, remaining, 0.5, rng.integers(3, 90, EXAMPLES), rng.normal(size=EXAMPLES),
        rng.integers(0, 4, EXAMPLES), loss, np.random.default_rng(1),
    )  # fmt: skip
    shares = ((0.0, "begins"), (0.5, "is half done"), (0.95, "ends"))
    return [
        (f"48 examples of 4 topics when training {words}", replace(draw, progress=share)) for share, words in shares
    ]


def _rare_draws() -> list[tuple[str, SamplerState]]:
    draw = _draws()[1][1]
    none, last = np.zeros(EXAMPLES, bool), np.arange(EXAMPLES) < SIZE
    every = ~none
    same = replace(draw, length=draw.length * 0 + 7, difficulty=draw.difficulty * 0, topic=draw.topic * 0)
    infinite = np.where(np.arange(EXAMPLES) % 3 == 0, np.inf, draw.loss)
    return [
        ("losses that nobody has seen yet", replace(draw, loss=np.full(EXAMPLES, np.nan), remaining=every)),
        ("losses of 1e4, some infinite", replace(draw, loss=infinite * 1e4)),
        ("examples that are all alike", same),
        ("as many examples left in the epoch as are drawn", replace(draw, remaining=last)),
        ("a batch of one", replace(draw, size=1)),
        ("a difficulty of 30 standard deviations", replace(draw, difficulty=draw.difficulty * 10)),
    ]


def _pairs() -> list[tuple[str, ScoredPairs]]:
    rng = np.random.default_rng(0)
    rewards = ("chosen", "rejected", "chosen_gold", "rejected_gold")
    found: dict[str, Any] = {name: rng.normal(size=PAIRS) for name in rewards}
    found |= {name: rng.integers(3, 60, PAIRS) for name in ("chosen_length", "rejected_length")}
    found |= {f"{side}_features": rng.normal(size=(PAIRS, 4)) for side in ("chosen", "rejected")}
    found["chosen"] += 0.5
    found["rejected_length"][:8] = found["chosen_length"][:8]
    known = (f"{side}_{what}" for side in ("chosen", "rejected") for what in ("rating", "variance", "epistemic"))
    topic = np.array(["cooking", "law", "sport", ""] * (PAIRS // 4))
    found |= {name: rng.random(PAIRS) + 0.1 for name in known}
    pairs = ScoredPairs(**found, prompt=np.arange(PAIRS), topic=topic, annotator=topic[::-1])
    return [("40 pairs, of which everything is known", replace(pairs, again=_again(pairs)))]


def _again(pairs: ScoredPairs) -> Any:
    """Scores the pairs again: of what was changed, a chosen response is worth less, a rejected one more."""
    words = [f"Word number {i} of a response; it says, for example, one thing or another." for i in range(PAIRS)]

    def again(rewrite: Rewrite) -> ScoredPairs:
        lost = np.array([_changed(text, rewrite(text, np.random.default_rng(i))) for i, text in enumerate(words)])
        return replace(pairs, chosen=pairs.chosen - lost, rejected=pairs.rejected + lost, again=None)

    return again


def _changed(before: str, after: str) -> float:
    apart = sum(a != b for a, b in zip(before.split(" "), after.split(" "), strict=False))
    return 0.2 * apart + 0.1 * abs(len(before) - len(after))


def _rare_pairs() -> list[tuple[str, ScoredPairs]]:
    whole = _pairs()[0][1]
    optional: dict[str, Any] = {f.name: None for f in fields(ScoredPairs) if f.default is None}
    one = take(whole, np.arange(1))
    return [
        ("pairs of which the rewards and lengths alone are known", replace(whole, **optional)),
        ("equal rewards", replace(whole, chosen=whole.chosen * 0, rejected=whole.rejected * 0, again=None)),
        ("rewards of size 1e4", replace(whole, chosen=whole.chosen * 1e4, rejected=whole.rejected * 1e4, again=None)),
        ("a model without an error", replace(whole, chosen=whole.rejected + 1, again=None)),
        ("one pair alone", one),
        ("pairs of one prompt", replace(whole, prompt=np.zeros(PAIRS, int), again=None)),
        ("responses of one length", replace(whole, chosen_length=whole.chosen_length * 0 + 5,
                                            rejected_length=whole.chosen_length * 0 + 5, again=None)),
    ]  # fmt: skip


def take(pairs: ScoredPairs, rows: np.ndarray) -> ScoredPairs:
    """Some of the pairs, in that order; they cannot be scored again."""
    parts: dict[str, Any] = {f.name: getattr(pairs, f.name) for f in fields(ScoredPairs)}
    taken: dict[str, Any] = {k: v[rows] if isinstance(v, np.ndarray) else None for k, v in parts.items()}
    return ScoredPairs(**taken)


def fresh(record: Any) -> Any:
    """A copy whose generator starts again."""
    parts = {f.name: getattr(record, f.name) for f in fields(record)}
    copied = {name: value.copy() for name, value in parts.items() if isinstance(value, np.ndarray)}
    return replace(record, **copied, **({"rng": np.random.default_rng(1)} if isinstance(record, SamplerState) else {}))


@dataclass(frozen=True)
class Refused:
    """A refusal with an error of ours."""

    words: str


def answer(subject: Subject, acts: Any, case: tuple[str, Any]) -> Any:
    """What it answers, or Refused. Raises Broken where it fails."""
    try:
        return unchecked(acts)(case[1])
    except RlhfError as error:
        return Refused(raised(error))
    except Exception as error:
        raise Broken(case[0], "an answer", raised(error)) from error


def observed(subject: Subject, **changes: Any) -> dict[str, Any]:
    """What it answers to every case."""
    found: dict[str, Any] = {}
    acts = subject.made(**changes)
    for words, record in [*cases(subject.kind), *extremes(subject.kind)]:
        try:
            result = unchecked(acts)(fresh(record))
        except Exception as error:
            result = raised(error)
        found |= _flat(words, result)
    return found


def _flat(words: str, result: Any) -> dict[str, Any]:
    return {f"{words}: {k}": v for k, v in result.items()} if isinstance(result, Mapping) else {words: result}


def shifted(pairs: ScoredPairs, by: float) -> ScoredPairs:
    """The pairs with the same number added to every reward."""
    return replace(pairs, chosen=pairs.chosen + by, rejected=pairs.rejected + by)
