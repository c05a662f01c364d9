"""A stage: what a recipe can run. It may train, measure or write, and says what it made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from rlhf_plugins import Run, StageResult, hookimpl


@dataclass(frozen=True)
class Stage:
    """Counts the words of the training responses, up to some number of groups."""

    groups: Annotated[int, Field(ge=1, description="how many groups to look at")] = 1000
    name: str = "stage"
    kind: ClassVar[str] = "stage"

    def run(self, run: Run) -> StageResult:
        counts = [len(str(r).split()) for group in run.data.train[: self.groups] for r in group.responses]
        run.log(0, {"words": sum(counts) / len(counts)})
        return StageResult(self.name, self.kind, metrics={"words": sum(counts) / len(counts)})


@hookimpl
def register_stage() -> dict[str, type]:
    return {"stage": Stage}
