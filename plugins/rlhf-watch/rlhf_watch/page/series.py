"""A curve of any length in bounded memory: neighbours are merged, their mean, smallest and largest kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

LARGEST = 1e300  # beyond it a sum may overflow: such numbers count as not finite
LIMIT = 600  # buckets of a curve, at most; a screen has no more columns


@dataclass(slots=True)
class Bucket:
    """Some neighbouring points."""

    step: int  # the first
    total: float
    count: int
    low: float
    high: float

    @classmethod
    def of(cls, step: int, values: Sequence[float]) -> Bucket:
        """Points, at least one."""
        return cls(step, sum(values), len(values), min(values), max(values))

    def join(self, other: Bucket) -> Bucket:
        """Both as one."""
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Bucket(self.step, self.total + other.total, self.count + other.count, low, high)


@dataclass
class Series:
    """A curve. Each bucket but the last holds `width` points; the width doubles when there are too many."""

    buckets: list[Bucket] = field(default_factory=list)
    width: int = 1
    last: float = math.nan
    not_finite: int = 0

    def add(self, step: int, value: float) -> None:
        """One more point. A step that goes back replaces what was there from it on: the stage was started again."""
        self.last = value
        if not abs(value) < LARGEST:
            self.not_finite += 1
            return
        while self.buckets and self.buckets[-1].step > step:
            self.buckets.pop()
        self._take([step], [value])

    def extend(self, steps: Sequence[int], values: Sequence[float]) -> None:
        """Many points, the same as one by one and faster."""
        before = [self.buckets[-1].step] if self.buckets else []
        rising = sorted([*before, *steps]) == [*before, *steps]
        if rising and math.isfinite(sum(values)) and min(values) > -LARGEST and max(values) < LARGEST:
            self.last = values[-1]
            self._take(steps, values)
        else:
            for step, value in zip(steps, values, strict=True):
                self.add(step, value)

    def _take(self, steps: Sequence[int], values: Sequence[float]) -> None:
        at = 0
        while True:
            if self.buckets and (room := self.width - self.buckets[-1].count) > 0 and at < len(values):
                self.buckets[-1] = self.buckets[-1].join(Bucket.of(steps[at], values[at : at + room]))
                at += room
            if len(self.buckets) + math.ceil(max(0, len(values) - at) / self.width) <= LIMIT:
                break
            pairs = zip(self.buckets[::2], [*self.buckets[1::2], None], strict=False)
            self.buckets = [one if other is None else one.join(other) for one, other in pairs]
            self.width *= 2
        for start in range(at, len(values), self.width):
            self.buckets.append(Bucket.of(steps[start], values[start : start + self.width]))

    def points(self) -> list[list[float]]:
        """[step, mean, smallest, largest] of each bucket, to the seven digits that a float32 has."""
        return [[one.step, _short(one.total / one.count), _short(one.low), _short(one.high)] for one in self.buckets]


def _short(value: float) -> float:
    return float(f"{value:.7g}")
