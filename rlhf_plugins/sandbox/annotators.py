"""Simulated annotators: noisy rankings and ratings of responses whose gold reward is known.

One mechanism makes them all. An annotator values response i at
    u_i = gold total + length_bias * words_i
and sees it through Gumbel noise of scale temperature / ability, here in units of that scale:
    s_i = ability * u_i / temperature + g_i,   g_i ~ Gumbel(0, 1).
Sorting by s ranks by Plackett-Luce (Plackett 1975; Luce 1959), and for two responses by Bradley-Terry (1952):
    P(a > b) = sigmoid(ability * (u_a - u_b) / temperature).
Two responses closer than `tie_margin` = m are a tie, the model of Rao and Kupper (1967) with theta = exp(m):
    P(a > b) = sigmoid(d - m),  P(b > a) = sigmoid(-d - m),  P(tie) = 1 - both,
where d = ability * (u_a - u_b) / temperature.

A share `flips` of the pairs, drawn evenly, is written down the wrong way round (symmetric noise).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from rlhf_plugins.errors import DataError
from rlhf_plugins.sandbox.gold import Gold
from rlhf_plugins.sandbox.world import words

Scores: TypeAlias = npt.NDArray[np.float64]

LOWEST_RATING, HIGHEST_RATING = 1, 5


@dataclass(frozen=True)
class Annotator:
    """One annotator's habits.

    Raises:
        DataError: an option is out of its range.
    """

    temperature: float = 0.3  # utility at which the odds of a right choice are e to 1
    ability: float = 1.0  # 0 chooses at random
    tie_margin: float = 0.0  # in units of s; 0 never ties
    length_bias: float = 0.0  # utility of each word
    strength_cuts: tuple[float, ...] = (1.0, 3.0)  # differences of s from which a preference is stronger
    rating_noise: float = 0.5  # standard deviation, in steps of the rating scale, at ability 1
    flips: float = 0.0  # share of pairs that are written down the wrong way round

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise DataError(f"an annotator's temperature must be above 0, not {self.temperature}")
        for name in ("ability", "tie_margin", "rating_noise"):
            if not getattr(self, name) >= 0:
                raise DataError(f"an annotator's {name} must not be below 0, not {getattr(self, name)}")
        if not 0 <= self.flips <= 1:
            raise DataError(f"an annotator's flips must be between 0 and 1, not {self.flips}")
        if list(self.strength_cuts) != sorted(self.strength_cuts):
            raise DataError(f"an annotator's strength_cuts must rise, not {self.strength_cuts}")

    def utility(self, response: str, worth: Gold) -> float:
        """How much the annotator likes a response of this worth: gold total + length_bias * words."""
        return worth.total + self.length_bias * sum(word.isalnum() for word in words(response))

    def probability(self, utility: float, other: float) -> float:
        """The probability that the first of two responses is preferred, with no tie (Rao and Kupper 1967)."""
        logit = self.ability * (utility - other) / self.temperature - self.tie_margin
        return 0.5 * (1 + math.tanh(logit / 2))

    def impressions(self, utilities: Sequence[float] | Scores, rng: np.random.Generator) -> Scores:
        """What the annotator thinks of K responses today: s, (K,)."""
        scale = self.ability / self.temperature
        return scale * np.asarray(utilities, dtype=float) + rng.gumbel(size=len(utilities))

    def rank(self, impressions: Scores) -> tuple[int, ...]:
        """The place of each response, 0 the best; neighbours closer than `tie_margin` share a place."""
        places = [0] * len(impressions)
        order = np.argsort(-impressions, kind="stable")
        for place, (better, worse) in enumerate(zip(order, order[1:], strict=False), start=1):
            tied = impressions[better] - impressions[worse] < self.tie_margin
            places[worse] = places[better] if tied else place
        return tuple(places)

    def strength(self, difference: float) -> int:
        """The strength that the annotator gives a preference: 0, a tie, or 1 to 1 + the number of `strength_cuts`."""
        if abs(difference) < self.tie_margin:
            return 0
        return 1 + sum(abs(difference) >= cut for cut in self.strength_cuts)

    def rate(self, worth: Gold, rng: np.random.Generator) -> Mapping[str, int]:
        """A rating from 1 to 5 of each dimension.

        It is round(1 + 4 * gold + noise) with noise ~ Normal(0, rating_noise / ability), cut to the scale.
        """
        deviation = self.rating_noise / max(self.ability, 1e-6)
        return {name: _rating(value, deviation * rng.normal()) for name, value in asdict(worth).items()}


def _rating(value: float, noise: float) -> int:
    exact = LOWEST_RATING + (HIGHEST_RATING - LOWEST_RATING) * value + noise
    return int(np.clip(np.rint(exact), LOWEST_RATING, HIGHEST_RATING))
