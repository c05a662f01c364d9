"""A file of JSON lines that grows by whole chunks and can be gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rlhf_plugins.contract import processes
from rlhf_plugins.data.files import read_json
from rlhf_plugins.engine.progress import counted
from rlhf_plugins.errors import RunError

NOTE = ".note.json"  # ending of the file beside the lines that records what they belong to


def place(source: str, out: Path | None, ending: str, what: str) -> Path:
    """Where the lines of a source are written: `out`, or beside it with an ending; of one on the hub, here.

    Args:
        source: a file, or a name on the hub.
        out: the file that was asked for.
        ending: the ending of its name where none was.
        what: the source is, for a message, such as `the file to score`.

    Raises:
        RunError: `out` is the source.
    """
    path = Path(source)
    if out is None:
        return path.with_name(path.name + ending) if path.exists() else Path(path.name + ending)
    if out.exists() and path.exists() and out.samefile(path):
        raise RunError(f"{out}: is {what}; name another with --out")
    return out


def digest(parts: Iterable[Any]) -> str:
    """A digest of JSON values, in their order."""
    found = blake2b(digest_size=16)
    for part in parts:
        found.update(json.dumps(part).encode())
    return found.hexdigest()


@dataclass(frozen=True)
class GrowingFile:
    """Lines of a file, and a note beside them that records what they belong to.

    Args:
        path: the path of the lines.
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

    def extend(self, kept: int, ends: Callable[[int], Sequence[str]], doing: str, done: str) -> None:
        """Writes the lines after those that are kept, chunk by chunk.

        Of several processes all compute the chunks, and the main one writes.

        Args:
            kept: lines that are there.
            ends: from the first line of a chunk to the second halves of its lines.
            doing: what progress calls it, such as `scoring`.
            done: what was done with lines when it is interrupted, such as `rows are scored`.

        Raises:
            RunError: the file cannot be written.
            KeyboardInterrupt: Ctrl-C; the message gives the number of lines that are done.
        """
        reached = kept

        def noted(first: int) -> Sequence[str]:
            nonlocal reached
            reached = first
            return ends(first)

        total = len(self.starts)
        firsts = counted(range(kept, total, self.chunk), doing, total - kept, "rows", lambda _: self.chunk)
        try:
            self._write(kept, firsts, noted)
        except KeyboardInterrupt as stop:
            how = "the same command goes on from there"
            raise KeyboardInterrupt(f"{self.path}: {reached} of {total} {done}; {how}") from stop

    def _write(self, kept: int, chunks: Iterable[int], ends: Callable[[int], Sequence[str]]) -> None:
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
