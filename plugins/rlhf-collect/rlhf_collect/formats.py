"""The data format `collected`: a release of a study as rows to train on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from rlhf_plugins import Base, Data, DataError, DataFormat, Group, OnDisk, Origin, hookimpl

if TYPE_CHECKING:
    from rlhf_collect.release import Release


@dataclass(frozen=True)
class Collected(DataFormat):
    """What people said in a study, up to a release; its held-out prompts are the test rows.

    `together` has one comparison of all votes on a pair, with the margin and weight of the aggregation; `apart` has one
    for each vote with its annotator and strength, for losses that read annotators.
    """

    source: Annotated[str, OnDisk(), Field(min_length=1, description="the folder of a study")]
    release: Annotated[int, Field(ge=1, description="number of the release")] = 1
    votes: Annotated[Literal["together", "apart"], Field(description="one comparison a pair, or one a vote")] = (
        "together"
    )

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError where there is no such study, release or row to train on, or ratings are asked for apart."""
        from rlhf_collect.shapes.every import SHAPES

        release, apart = self._release(), self.votes == "apart"
        shape = SHAPES[release.kind]
        groups: dict[str, list[Group]] = {"train": [], "test": []}
        for number, one in enumerate(release.rows, 1):
            origin = Origin(f"{self.source}#{self.release}", number)
            groups[one.split].append(shape.group(one, origin, apart))
        if not groups["train"]:
            raise DataError(f"{self.source}: release {self.release} has no row to train on")
        prompts = {split: _prompts(rows) for split, rows in groups.items()}
        return Data(tuple(groups["train"]), tuple(groups["test"]), prompts, release.left_out)

    def missing(self) -> dict[str, str]:
        """The study, where its folder holds none."""
        from rlhf_collect.study import holds_study

        there = holds_study(Path(self.source).expanduser())
        return {} if there else {"source": f"{self.source}: holds no study"}

    def known_gold(self) -> bool:
        """Nobody knows the true reward of people's rows."""
        return False

    def known_columns(self) -> frozenset[str] | None:
        """None where the release is not there; loading it says so."""
        from rlhf_collect.shapes.every import SHAPES

        try:
            release = self._release()
        except DataError:
            return None
        shape = SHAPES[release.kind]
        return frozenset().union(*(shape.columns(one, self.votes == "apart") for one in release.rows))

    def _release(self) -> Release:
        from rlhf_collect.release import load
        from rlhf_collect.study import open_study

        study = open_study(Path(self.source).expanduser())
        try:
            found = load(study, self.release)
        finally:
            study.close()
        if self.votes == "apart" and found.kind == "rating":
            raise DataError(f"{self.source}: votes: apart is of pairs and rankings; ratings are averaged")
        return found


def _prompts(groups: list[Group]) -> tuple[Group, ...]:
    first = {str(group.prompt): group for group in reversed(groups)}
    return tuple(Group(group.prompt, topic=group.topic, origin=group.origin) for group in reversed(first.values()))


@hookimpl
def register_data_format() -> dict[str, Any]:
    """The format of this file."""
    return {"collected": Collected}
