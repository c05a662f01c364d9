"""Rows of any format after steps that select, weigh and add to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.run_kinds import DataFormat, DataStep

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data
    from rlhf_plugins.contract.run import Base, Run


@dataclass(frozen=True)
class Prepared(DataFormat, like="rows"):
    """The rows of another format after steps, one after the other, that change what is trained on.

    Held-out rows stay as they are, so that the numbers of two preparations can be compared. What a step leaves out is
    counted by its reason. A prompt all of whose rows are left out is not asked in training either.
    """

    rows: DataFormat = uses("data_format", tag="format")
    steps: tuple[DataStep, ...] = uses("data_step")

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError as the rows' format and the steps do, and where a step leaves no row."""
        return self._prepared(self.rows.load(base, seed), seed)

    def load_in(self, run: Run) -> Data:
        """As `load`, with rows that an earlier stage made."""
        return self._prepared(self.rows.load_in(run), run.seed)

    def known_gold(self) -> bool | None:
        """As of the rows."""
        return self.rows.known_gold()

    def known_columns(self) -> frozenset[str] | None:
        """Those of the rows, and those that the steps fill in."""
        known = self.rows.known_columns()
        return None if known is None else known.union(*(step.writes for step in self.steps))

    def _prepared(self, data: Data, seed: int) -> Data:
        from rlhf_plugins.data.steps import prepared

        return prepared(data, self.steps, seed)


@hookimpl
def register_data_format() -> dict[str, type]:
    """The format of this file."""
    return {"prepared": Prepared}
