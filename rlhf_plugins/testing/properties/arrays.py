"""Properties of samplers and metrics, which work on arrays."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from rlhf_plugins.contract.records import SamplerState
from rlhf_plugins.testing import arrays
from rlhf_plugins.testing.arrays import Refused
from rlhf_plugins.testing.conformance import holds_of
from rlhf_plugins.testing.observe import differ
from rlhf_plugins.testing.subject import Subject, expect, has


def _answered(subject: Subject, rare: bool = True) -> Iterator[tuple[str, Any, Any]]:
    acts = subject.made()
    for words, record in [*arrays.cases(subject.kind), *(arrays.extremes(subject.kind) if rare else [])]:
        given = arrays.fresh(record)
        result = arrays.answer(subject, acts, (words, given))
        if not isinstance(result, Refused):
            yield words, given, result


# ---- both ------------------------------------------------------------------------------------------------
@holds_of(*arrays.KINDS)
def arrays_are_unmutated(subject: Subject) -> None:
    """The arrays are the trainer's own record of the data: what is changed in them stays changed."""
    for words, record, _ in _answered(subject):
        before = dict(arrays.cases(subject.kind) + arrays.extremes(subject.kind))[words]
        for name in (f.name for f in fields(record)):
            now, then = getattr(record, name), getattr(before, name)
            if isinstance(now, np.ndarray):
                same = np.array_equal(now, then, equal_nan=now.dtype.kind == "f")
                expect(same, words, f"`{name}` as it was", f"`{name}` changed in place")


@holds_of(*arrays.KINDS)
def arrays_answer_repeats(subject: Subject) -> None:
    """A run is repeated from its seed: what is random must come from the generator that is given, or from a seed.

    A metric that reads the clock says `reads_clock = True`.
    """
    if has(subject.made(), "reads_clock"):
        return
    np.random.seed(1)
    first = arrays.observed(subject)
    np.random.seed(2)
    expect(not differ(first, arrays.observed(subject)), "every case, twice", "the same answers", "other answers")


@holds_of(*arrays.KINDS)
def arrays_random_state(subject: Subject) -> None:
    """A component that seeds or draws from the global generator changes every draw of the run after it."""
    np.random.seed(1)
    before: Any = np.random.get_state(legacy=True)
    arrays.observed(subject)
    after: Any = np.random.get_state(legacy=True)
    same = all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    expect(same, "every case", "NumPy's global random state left alone", "another state of it")


# ---- samplers --------------------------------------------------------------------------------------------
@holds_of("sampler")
def draws_are_legal(subject: Subject) -> None:
    """The trainer reads rows by these indices: of a wrong number of them, or a wrong one, it makes a wrong batch."""
    for words, draw, result in _answered(subject):
        assert isinstance(draw, SamplerState)
        is_array = isinstance(result, np.ndarray) and result.dtype.kind in "iu"
        expect(is_array, words, "an array of integers", f"{type(result).__name__} {getattr(result, 'dtype', '')}")
        expect(result.shape == (draw.size,), words, f"shape ({draw.size},)", f"shape {result.shape}")
        inside = bool(((result >= 0) & (result < len(draw.remaining))).all())
        expect(inside, words, f"indices from 0 to {len(draw.remaining) - 1}", str(sorted({result.min(), result.max()})))


@holds_of("sampler")
def draws_differ(subject: Subject) -> None:
    """A sampler that leaves the generator unread shows the same examples together in every epoch."""
    acts, words = subject.made(), arrays.cases("sampler")[1][0]
    draw = arrays.cases("sampler")[1][1]
    seen = set()
    for seed in range(8):
        given = arrays.fresh(draw)
        object.__setattr__(given, "rng", np.random.default_rng(seed))
        result = arrays.answer(subject, acts, (words, given))
        seen.add("refused" if isinstance(result, Refused) else str(sorted(np.asarray(result).tolist())))
    expect(len(seen) > 1 or "refused" in seen, f"{words}, with 8 generators", "different batches", "one batch, 8 times")


# ---- metrics ---------------------------------------------------------------------------------------------
@holds_of("metric")
def names_are_its_own(subject: Subject) -> None:
    """A name that is not the metric's own, or does not begin with it, may be another metric's in the report."""
    for words, _, result in _answered(subject):
        expect(isinstance(result, Mapping), words, "a mapping of names to numbers", type(result).__name__)
        strange = [name for name in result if subject.name != "under_test" and not str(name).startswith(subject.name)]
        expect(not strange, words, f"names that begin with {subject.name!r}", ", ".join(map(str, strange)))


@holds_of("metric")
def numbers_are_plain(subject: Subject) -> None:
    """The report is JSON: it holds finite numbers of Python, and a measure that is not known is left out."""
    for words, _, result in _answered(subject):
        for name, value in result.items():
            number = isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
            expect(number and _is_json(value), words, f"a finite number for {name}", repr(value))


def _is_json(value: Any) -> bool:
    try:
        return bool(json.dumps(value))
    except TypeError:
        return False


@holds_of("metric")
def pairs_have_no_order(subject: Subject) -> None:
    """The order of held-out pairs is chance: it must not move a measure."""
    if has(subject.made(), "reads_clock"):
        return
    acts = subject.made()
    words, pairs = arrays.cases("metric")[0]
    whole = arrays.take(pairs, np.arange(len(pairs.chosen)))
    back = arrays.take(pairs, np.arange(len(pairs.chosen))[::-1])
    result, again = (arrays.answer(subject, acts, (f"{words}, forwards and backwards", one)) for one in (whole, back))
    if isinstance(result, Refused) or isinstance(again, Refused):
        return
    for name, value in result.items():
        same = name in again and math.isclose(value, again[name], rel_tol=1e-6, abs_tol=1e-9)
        expect(same, f"{words}, forwards and backwards", f"{name} {value:.6g} both times", f"{again.get(name)}")


@holds_of("metric")
def metric_shift_as_declared(subject: Subject) -> None:
    """Pairs teach differences of rewards alone: a metric that declares `under_shift="same"` must depend on no more."""
    if has(subject.made(), "under_shift") is None:
        return
    acts = subject.made()
    words, pairs = arrays.cases("metric")[0]
    whole = arrays.take(pairs, np.arange(len(pairs.chosen)))
    tried = f"{words}, 3 added to every reward"
    result, again = (arrays.answer(subject, acts, (tried, one)) for one in (whole, arrays.shifted(whole, 3.0)))
    for name, value in ({} if isinstance(result, Refused) or isinstance(again, Refused) else result).items():
        same = name in again and math.isclose(value, again[name], rel_tol=1e-6, abs_tol=1e-9)
        expect(same, tried, f"{name} {value:.6g} still", f"{again.get(name)}")
