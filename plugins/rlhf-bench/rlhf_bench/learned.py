"""The selector `learned`: what algorithms scored on tasks with such features.

A history is a JSON list of `{task, algorithm, score, features}`. It is fitted again when it is opened: nothing is
pickled.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf, log
from pathlib import Path
from sys import float_info
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rlhf_plugins import Choice, Features, OnDisk, RunError, Selector, Situation, component, hookimpl, nearest

Row = dict[str, Any]
Vector = NDArray[np.float64]
COUNTS = ("pairs", "prompts", "topics")  # on a log scale
BUNDLED = Path(__file__).parent / "history.json"
NORMAL = 1.96
UNUSED = ("vram", "hours", "staged", "latency", "update_every", "priority")  # resources that no score knows
OF_POLICY = "off_policy"  # the feature that needs a policy
FEWEST = 3  # tasks of an algorithm


@dataclass(frozen=True)
class Learned(Selector):
    """Expects of each algorithm the posterior mean of a Gaussian process over the features of tasks that were run.

    The score is in the history's unit: with the bundled one it is the gold reward of the sandbox's tasks, whatever the
    rows are, and the first reason says so. The interval is 1.96 posterior deviations, the noise of a run included.
    Where the data lacks a feature that the history has, the expectation is the mean over all values that the history
    has of it, and its variance grows by how much they differ. An algorithm that the history does not know is last,
    without a score, and after it what cannot do what is asked, by the selector `rules`. The history knows no hours,
    memory or aims: what is given of them changes nothing, and is named. So is whether the rows' responses are the
    policy's own, where the history does not have it. A wanted feature that a run of the history lacks is left out, and
    named.
    """

    history: Annotated[
        str | None, OnDisk(), Field(description="a JSON file; null is the one of the suite `selection`")
    ] = None
    wanted: list[str] = field(default_factory=lambda: ["pairs", "circles", "strength", "longer_wins", "ties"])

    def missing(self) -> dict[str, str]:
        """The file, where it is not there."""
        return {} if self.file.is_file() else {"history": f"there is no file {str(self.file)!r}"}

    @property
    def file(self) -> Path:
        """The history's."""
        return BUNDLED if self.history is None else Path(self.history)

    @property
    def unit(self) -> str:
        """What an expected score is a score of."""
        tasks = (
            "gold reward on the sandbox's tasks" if self.history is None else f"score on the tasks of {self.history}"
        )
        return f"expected is the {tasks}, not on these rows"

    def __post_init__(self) -> None:
        for name in self.wanted:
            if name not in Features.__dataclass_fields__:
                raise ValueError(f"wanted: unknown feature {name!r} {nearest(name, Features.__dataclass_fields__)}")

    def __call__(self, situation: Situation) -> list[Choice]:
        """The highest expectation first."""
        rows = read(self.file)
        vector = [_value(asdict(situation.features), name) for name in self.wanted]
        choices = [self.choice(algorithm, rows, vector) for algorithm in situation.algorithms]
        choices = sorted(choices, key=lambda one: -inf if one.score is None else one.score, reverse=True)
        return _ruled(choices, situation, self._unknown(situation, rows))

    def _unknown(self, situation: Situation, rows: Sequence[Row]) -> list[str]:
        """What is given of the resources or seen of the policy, and no score knows."""
        unused = [name for name in UNUSED if getattr(situation.resources, name)]
        known = OF_POLICY in self.wanted and all(row["features"].get(OF_POLICY) is not None for row in rows)
        return [*unused, *[OF_POLICY] * (situation.features.off_policy is not None and not known)]

    def choice(self, algorithm: str, rows: Sequence[Row], vector: Sequence[float | None]) -> Choice:
        """What is expected of one algorithm."""
        mine = [row for row in rows if row["algorithm"] == algorithm]
        tasks = {row["task"] for row in mine}
        if len(tasks) < FEWEST:
            return Choice(algorithm, (f"the history has {len(tasks)} tasks of it, fewer than {FEWEST}",))
        x = np.array([[_value(row["features"], name) for name in self.wanted] for row in mine], dtype=float)
        seen = ~np.isnan(x).any(0)  # features that every row of the history has
        if not seen.any():
            return Choice(algorithm, (f"no row of the history has all of {', '.join(self.wanted)}",))
        expected = expect(x[:, seen], np.array([row["score"] for row in mine]), np.array(vector, dtype=float)[seen])
        reasons = [self.unit]
        reasons += [f"{len(mine)} runs on {len(tasks)} tasks scored {min(r['score'] for r in mine):.2f} to "
                   f"{max(r['score'] for r in mine):.2f}"]  # fmt: skip
        used = [name for name, is_seen in zip(self.wanted, seen, strict=True) if is_seen]
        unseen = [name for name, value in zip(self.wanted, vector, strict=True) if value is None and name in used]
        reasons += [f"not seen: {', '.join(unseen)}, so that the interval is wider"] * bool(unseen)
        never = [name for name in self.wanted if name not in used]
        reasons += [f"left out, since not every run of the history has it: {', '.join(never)}"] * bool(never)
        at = zip(self.wanted, vector, x.T, seen, strict=True)
        far = [
            name for name, value, of, known in at if known and value is not None and not of.min() <= value <= of.max()
        ]
        reasons += [f"beyond what the history has: {', '.join(far)}"] * bool(far)
        deviation = NORMAL * expected.deviation
        mean = expected.mean
        return Choice(algorithm, reasons, True, mean, mean - deviation, mean + deviation)


def _ruled(choices: Sequence[Choice], situation: Situation, unused: Sequence[str]) -> list[Choice]:
    """Puts the choices that the rules hold possible first; each says what its score does not know and it cannot do."""
    ruled = {one.algorithm: one for one in component("selector", "rules")(situation)}
    said = [f"its score does not know {', '.join(unused)}"] * bool(unused)
    found = []
    for choice in choices:
        rule = ruled[choice.algorithm]
        cannot = [] if rule.possible else [why for why in rule.reasons if why.startswith("cannot: ")]
        found.append(replace(choice, reasons=(*choice.reasons, *said, *cannot), possible=rule.possible))
    return sorted(found, key=lambda one: not one.possible)


class Expected(NamedTuple):
    """A mean and a standard deviation."""

    mean: float
    deviation: float


def expect(x: Vector, y: Vector, at: Vector) -> Expected:
    """The posterior at a point of a Gaussian process on standardised features, averaged over what is NaN in the point.

    Args:
        x: (runs, features).
        y: (runs,) scores.
        at: (features,), NaN where unknown.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    centre, scale = x.mean(0), np.where(np.ptp(x, 0) > 0, x.std(0), 1.0)  # the deviation of equal numbers is rounding
    spread = float(y.std()) if np.ptp(y) > 0 else 1.0
    kernel = ConstantKernel(1.0, (0.05, 20.0)) * RBF(2.0, (0.5, 20.0)) + WhiteKernel(0.3, (0.01, 3.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the bounds are meant: few runs cannot place them
        process = GaussianProcessRegressor(kernel, random_state=0).fit((x - centre) / scale, (y - y.mean()) / spread)
    points = np.tile(at, (len(x), 1))
    points = np.where(np.isnan(points), x, points)  # a missing value becomes each one of the history in turn
    points = np.unique(points, axis=0)
    means, deviations = process.predict((points - centre) / scale, return_std=True)
    variance = (deviations**2).mean() + means.var()
    return Expected(float(means.mean() * spread + y.mean()), float(np.sqrt(variance) * spread))


def read(file: Path) -> list[Row]:
    """A history. Raises RunError where it is none."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file}: is no history: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise RunError(f"{file}: is no history, a JSON list of task, algorithm, score and features")
    for place, row in enumerate(rows, 1):
        if wrong := _fault(row):
            raise RunError(f"{file}: is no history: row {place}: {wrong}")
    return rows


def _fault(row: Any) -> str:
    """What is wrong with a row of a history; empty where nothing is."""
    if not isinstance(row, dict) or not {"task", "algorithm", "score", "features"} <= row.keys():
        return "should have task, algorithm, score and features"
    if unnamed := [name for name in ("task", "algorithm") if not isinstance(row[name], str)]:
        return f"{unnamed[0]}: should be a name, got {row[unnamed[0]]!r}"
    if not _is_number(row["score"]):
        return f"score: should be a finite number, got {row['score']!r}"
    if not isinstance(row["features"], dict):
        return f"features: should be a mapping, got {row['features']!r}"
    wrong = [name for name, value in row["features"].items() if value is not None and not _is_number(value)]
    return f"features.{wrong[0]}: should be a finite number, got {row['features'][wrong[0]]!r}" if wrong else ""


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= float_info.max  # `isfinite` raises for a larger integer


def _value(features: dict[str, Any], name: str) -> float | None:
    value = features.get(name)
    if value is None:
        return None
    return log(value) if name in COUNTS and value > 0 else float(value)


@hookimpl
def register_selector() -> dict[str, type]:
    """The selector of this file."""
    return {"learned": Learned}
