"""Rows of any format after steps that select, weigh and add to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.run_kinds import DataFormat, DataStep
from rlhf_plugins.errors import DataError

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data
    from rlhf_plugins.contract.run import Base, Run


@dataclass(frozen=True)
class Prepared(DataFormat, like=("rows", "steps")):
    """The rows of another format after steps, one after the other, that change what is trained on.

    Held-out rows stay as they are, so that the numbers of two preparations can be compared. What a step leaves out is
    counted by its reason. A prompt all of whose rows are left out is not asked in training either. Steps that ask a
    model need a run, so that they are for the `data` of a stage.
    """

    rows: DataFormat = uses("data_format", tag="format")
    steps: tuple[DataStep, ...] = uses("data_step")

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError as the rows' format and the steps do, where a step leaves no row, or asks a model."""
        from rlhf_plugins.data.changes.steps import prepared

        for number, step in enumerate(self.steps):
            if step.builds:
                raise DataError(f"steps.{number}: asks a model, which only a stage can open: write this as its `data`")
        return prepared(self.rows.load(base, seed), self.steps, seed)

    def load_in(self, run: Run) -> Data:
        """See `DataFormat`; an earlier stage may have made the rows."""
        from rlhf_plugins.data.changes.steps import prepared

        steps = [step.acting(run) if step.builds else step for step in self.steps]
        return prepared(self.rows.load_in(run), steps, run.seed)

    def known_gold(self) -> bool | None:
        """Whether the rows that are prepared have a gold reward."""
        return self.rows.known_gold()

    def known_columns(self) -> frozenset[str] | None:
        """The columns of the rows and those that the steps fill in; unknown where a step writes new responses."""
        known = None if any(step.answered for step in self.steps) else self.rows.known_columns()
        return None if known is None else known.union(*(step.writes for step in self.steps))


@hookimpl
def register_data_format() -> dict[str, type]:
    """The format of this file."""
    return {"prepared": Prepared}
