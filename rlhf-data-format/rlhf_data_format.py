"""A data format: preferences as groups of judged responses to a prompt."""

from dataclasses import dataclass
from pathlib import Path

from rlhf_plugins import Base, DataError, Group, PreferenceData, hookimpl


@dataclass(frozen=True)
class DataFormat:
    """A text file with a pair a line: prompt, better and worse response, with tabs between them."""

    source: str
    held_out: int = 2  # lines at the end that are tested on

    def load(self, base: Base, seed: int) -> PreferenceData:
        rows = [line.split("\t") for line in Path(self.source).read_text(encoding="utf-8").splitlines()]
        if bad := [number for number, row in enumerate(rows, 1) if len(row) != 3]:
            raise DataError(f"{self.source}:{bad[0]}: expected three fields with tabs between them")
        groups = tuple(Group(prompt, (better, worse), ranks=(0, 1)) for prompt, better, worse in rows)
        parts = {"train": groups[: -self.held_out], "test": groups[-self.held_out :]}
        return PreferenceData(**parts, prompts={k: tuple(g.prompt for g in part) for k, part in parts.items()})


@hookimpl
def register_data_format() -> dict[str, type]:
    return {"data_format": DataFormat}
