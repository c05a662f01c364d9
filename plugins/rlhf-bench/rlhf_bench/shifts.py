"""Data formats that change another one in a known way: prompts elsewhere, a few of them learned from, rival aims."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import Field

from rlhf_bench.apart import Apart, Unseen
from rlhf_plugins import Base, Data, DataError, DataFormat, Group, hookimpl, nearest, uses


@dataclass(frozen=True)
class Elsewhere(DataFormat, like="rows"):
    """The held-out rows of another format are its out-of-distribution ones, of which a few prompts are trained on.

    The prompts that are trained on are the last ones, so that the first ones are held out whatever `shots` is.
    """

    rows: DataFormat = uses("data_format", tag="format")
    shots: Annotated[int, Field(ge=0, description="out-of-distribution prompts to train on; 0: none is seen")] = 0

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError as the other format does, and where fewer than two prompts would be held out."""
        data = self.rows.load(base, seed)
        asked = data.prompts.get("out_of_distribution", ())
        kept = len(asked) - self.shots
        if kept < 2:
            raise DataError(f"elsewhere: {len(asked)} out-of-distribution prompts, of which shots: {self.shots}")
        seen = {group.prompt_words for group in asked[kept:]}
        learned = tuple(group for group in data.out_of_distribution if group.prompt_words in seen)
        held_out = tuple(group for group in data.out_of_distribution if group.prompt_words not in seen)
        prompts = {"train": (*data.prompts.get("train", ()), *asked[kept:]), "test": asked[:kept]}
        return replace(data, train=(*data.train, *learned), test=held_out, prompts=prompts, out_of_distribution=())

    def known_gold(self) -> bool | None:
        """Whether a gold reward comes with the rows of the other format; None is unknown."""
        return self.rows.known_gold()

    def known_columns(self) -> frozenset[str] | None:
        """Which of `COLUMNS` the rows of the other format have; None is unknown."""
        return self.rows.known_columns()


@dataclass(frozen=True)
class Conflicting(DataFormat, like="rows"):
    """A share of another format's training rows is ranked again by one dimension of the true reward alone.

    Rows whose responses do not differ in it stay as they are. Held-out rows stay, and the true reward is the other
    format's: what is learned of the rival aim is lost there.
    """

    dimension: Annotated[str, Field(description="of the true reward, such as `concise` in the sandbox")]
    rows: DataFormat = uses("data_format", tag="format")
    share: Annotated[float, Field(gt=0, le=1, description="of the training rows, drawn evenly")] = 0.5

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError as the other format does, and where the true reward has no such dimension."""
        data = self.rows.load(base, seed)
        if data.gold is None:
            raise DataError("conflicting: needs rows whose true reward is known, such as format sandbox")
        return replace(data, train=tuple(self._judged(data, np.random.default_rng(seed))))

    def known_gold(self) -> bool | None:
        """Whether a gold reward comes with the rows of the other format; None is unknown."""
        return self.rows.known_gold()

    def known_columns(self) -> frozenset[str] | None:
        """Without margins, which were another's."""
        known = self.rows.known_columns()
        return known and known - {"margin"}

    def _judged(self, data: Data, rng: np.random.Generator) -> Iterator[Group]:
        for group in data.train:
            drawn = rng.random() < self.share
            values = [self._value(data, group, str(text)) for text in group.responses] if drawn else []
            if len(set(values)) > 1:
                places = sorted(set(values), reverse=True)
                ranks = tuple(places.index(value) for value in values)
                yield replace(group, ranks=ranks, margin=None, compared=None, ratings={})
            else:
                yield replace(group, margin=None)

    def _value(self, data: Data, group: Group, response: str) -> float:
        assert data.gold is not None
        worth = data.gold(str(group.prompt), response)
        if self.dimension not in worth:
            raise DataError(f"conflicting: no dimension {self.dimension!r} {nearest(self.dimension, _named(worth))}")
        return worth[self.dimension]


def _named(worth: Iterable[str]) -> list[str]:
    return [name for name in worth if name != "total"]


@hookimpl
def register_data_format() -> dict[str, type]:
    """The formats of this package."""
    return {"apart": Apart, "conflicting": Conflicting, "elsewhere": Elsewhere, "unseen": Unseen}
