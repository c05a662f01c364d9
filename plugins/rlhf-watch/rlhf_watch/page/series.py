"""A curve of any length in bounded memory: neighbours are merged, their mean, smallest and largest kept."""

from __future__ import annotations

import math
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

    def take(self, value: float) -> None:
        """One more point."""
        self.total += value
        self.count += 1
        if value < self.low:
            self.low = value
        elif value > self.high:
            self.high = value

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
        while self.buckets and (newest := self.buckets[-1]).step > step:
            self.buckets.pop()
        if self.buckets and newest.count < self.width:
            newest.take(value)
            return
        self.buckets.append(Bucket(step, value, 1, value, value))
        if len(self.buckets) > LIMIT:
            pairs = zip(self.buckets[::2], [*self.buckets[1::2], None], strict=False)
            self.buckets = [one if other is None else one.join(other) for one, other in pairs]
            self.width *= 2

    def points(self) -> list[list[float]]:
        """[step, mean, smallest, largest] of each bucket."""
        return [[one.step, one.total / one.count, one.low, one.high] for one in self.buckets]
