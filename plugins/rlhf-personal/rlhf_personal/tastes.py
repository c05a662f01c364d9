"""The data format `tastes`: rows whose true worth is known in several dimensions, judged by users who differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field

from rlhf_plugins import Base, Data, DataError, DataFormat, Group, hookimpl, uses

Numbers: TypeAlias = npt.NDArray[np.float64]
# what another judged
NOT_THEIRS: dict[str, Any] = {"margin": None, "weight": 1.0, "compared": None, "ratings": {}, "label": None}
TOTAL = "total"  # the sum of the dimensions, which is none of them


@dataclass(frozen=True)
class Tastes(DataFormat, like="rows"):
    """Each row of another format is ranked again by one of several simulated users, drawn evenly.

    User u values a response at t_u . d, d its true dimensions and its length in tens of words, with
    t_u ~ N(mean, spread^2): the mean is 1 for each dimension and 0 for the length. The ranking is Plackett-Luce (Luce
    1959) at a temperature: for two responses Bradley-Terry. The column `user` holds u, and `gold` is u's own value.
    """

    rows: DataFormat = uses("data_format", tag="format")
    users: Annotated[int, Field(ge=1, description="how many judge")] = 40
    first: Annotated[int, Field(ge=0, description="number of the first: other numbers are other people")] = 0
    spread: Annotated[float, Field(ge=0, description="standard deviation of t_u; 0 makes all users alike")] = 1.5
    temperature: Annotated[float, Field(gt=0, description="value at which the odds of a right choice are e to 1")] = 0.3

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError as the other format does, and where its true worth is not known."""
        data = self.rows.load(base, seed)
        if data.gold is None:
            raise DataError("tastes: needs rows whose true reward is known, such as format sandbox")
        rng = np.random.default_rng([seed, self.first])
        judged: dict[str, Any] = {
            name: tuple(self._judged(data.gold, getattr(data, name), rng))
            for name in ("train", "test", "out_of_distribution")
        }
        return replace(data, **judged)

    def known_gold(self) -> bool | None:
        """Whether a gold reward comes with the rows of the other format; None is unknown."""
        return self.rows.known_gold()

    def known_columns(self) -> frozenset[str] | None:
        """Ranks, and what the other format says of whole rows: margins and ratings were another's."""
        known = self.rows.known_columns()
        return None if known is None else known & {"topic", "difficulty"} | {"ranks"}

    def _judged(self, gold: Any, groups: Iterable[Group], rng: np.random.Generator) -> Iterable[Group]:
        for group in groups:
            user = int(rng.integers(self.users))
            worth = worths(gold, str(group.prompt), [str(text) for text in group.responses])
            value = worth @ taste(self.first + user, worth.shape[1], self.spread)
            seen = value / self.temperature + rng.gumbel(size=len(value))
            ranks = (-seen).argsort().argsort()
            yield replace(
                group,
                **NOT_THEIRS,
                ranks=tuple(ranks.tolist()),
                gold=tuple(value.tolist()),
                columns={**group.columns, "user": self.first + user},
            )


def taste(user: int, dimensions: int, spread: float) -> Numbers:
    """t_u, (dimensions,), the last one of the length; it depends on nothing but the user and the spread."""
    mean = np.ones(dimensions)
    mean[-1] = 0.0
    return mean + spread * np.random.default_rng([20, user]).normal(size=dimensions)


def worths(gold: Any, prompt: str, responses: Sequence[str]) -> Numbers:
    """The true dimensions of responses, and their length in tens of words, (responses, dimensions + 1)."""
    found: list[Mapping[str, float]] = [gold(prompt, response) for response in responses]
    return np.array(
        [
            [*(value for name, value in each.items() if name != TOTAL), len(response.split()) / 10]
            for each, response in zip(found, responses, strict=True)
        ]
    )


@hookimpl
def register_data_format() -> dict[str, type]:
    """The format of this file."""
    return {"tastes": Tastes}
