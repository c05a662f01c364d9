"""Mean and deviation of numbers that come in batches, without keeping them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """The moments of all numbers so far, each with the same weight (Welford's update by batches, Chan et al. 1979)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared distances from the mean

    @property
    def deviation(self) -> float:
        """The population's; 0 before there is a number."""
        return (self.squares / max(self.count, 1)) ** 0.5

    def including(self, numbers: Tensor) -> Moments:
        """The moments of all numbers so far and of these (n,), at least one."""
        numbers, count = numbers.double(), self.count + len(numbers)
        mean = float(numbers.mean())
        gap, share = mean - self.mean, len(numbers) / count
        squares = float(((numbers - mean) ** 2).sum()) + gap**2 * self.count * share
        return Moments(count, self.mean + gap * share, self.squares + squares)


class Unit(NamedTuple):
    """The mean and the deviation in which values and returns are without a unit."""

    mean: float
    deviation: float

    def without(self, values: Tensor) -> Tensor:
        """(V - mean) / deviation, same shape."""
        return (values - self.mean) / self.deviation
