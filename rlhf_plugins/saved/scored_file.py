"""A file of JSON lines that grows by whole chunks and can be gone on with. It knows lines, not what scores them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_plugins.contract import processes
from rlhf_plugins.data.files import read_json
from rlhf_plugins.errors import RunError

NOTE = ".note.json"  # ending of the file beside the lines that records what they belong to


@dataclass(frozen=True)
class ScoredFile:
    """Lines of a file, and a note beside them that records what they belong to.

    Args:
        path: of the lines.
        note: what they belong to, by name; lines with another note are not continued.
        starts: how each of the lines begins.
        chunk: lines that are written at once; an interruption leaves a multiple of it, once `reopen` has cut the rest.
        cure: what to do where the lines belong to something else.
    """

    path: Path
    note: Mapping[str, Any]
    starts: Sequence[str]
    chunk: int
    cure: str = "name another file with --out, or replace it with --overwrite"

    def reopen(self, overwrite: bool) -> int:
        """The number of lines to keep; a chunk that an interruption left incomplete is cut off.

        Raises:
            RunError: the lines belong to something else, are not as they were written, or cannot be read.
        """
        try:
            if overwrite:
                self.path.unlink(missing_ok=True)
            if not self.path.exists():
                return 0
            self._belongs()
            with self.path.open("r+b") as file:
                kept, size = self._kept(file)
                file.truncate(size)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be read or written: {error}") from error
        return kept

    def extend(self, kept: int, chunks: Iterable[int], ends: Callable[[int], Sequence[str]]) -> None:
        """Writes the chunks that begin at the lines `chunks`; `ends` gives the second halves of a chunk's lines.

        Of several processes all compute the chunks, and the main one writes.
        """
        if processes.index():
            for first in chunks:
                ends(first)
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not kept:
                self._note_path.write_text(json.dumps(dict(self.note), indent=2) + "\n", encoding="utf-8")
            with self.path.open("ab") as file:
                for first in chunks:
                    starts = self.starts[first : first + self.chunk]
                    lines = [start + end + "\n" for start, end in zip(starts, ends(first), strict=True)]
                    file.write("".join(lines).encode())
                    file.flush()
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written: {error}") from error

    @property
    def _note_path(self) -> Path:
        return self.path.with_name(self.path.name + NOTE)

    def _belongs(self) -> None:
        try:
            found = read_json(self._note_path)
            different = [name for name, value in self.note.items() if found.get(name) != value]
        except (OSError, ValueError, AttributeError) as error:
            raise self._refused(f"exists, and no {self._note_path.name} records what it belongs to") from error
        if different:
            raise self._refused(f"exists, and was written of another {' and another '.join(different)}")

    def _kept(self, file: Any) -> tuple[int, int]:
        """Lines and bytes up to the last whole chunk."""
        kept = kept_size = count = size = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            if count == len(self.starts) or not line.startswith(self.starts[count].encode()):
                raise self._refused(f"line {count + 1} does not belong to the row of that place")
            count, size = count + 1, size + len(line)
            if count % self.chunk == 0 or count == len(self.starts):
                kept, kept_size = count, size
        return kept, kept_size

    def _refused(self, why: str) -> RunError:
        return RunError(f"{self.path}: {why}; {self.cure}")
