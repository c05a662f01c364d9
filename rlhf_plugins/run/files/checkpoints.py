"""The checkpoints of one stage: a folder for each training, in it a folder for each step, whole or not there.

checkpoints/<training>/<step>/state.json           everything but tensors
                              tensors.safetensors
                              trainer_state.json    what transformers reads
                              checksums.json        of the files above; without it, or where it differs, it is torn
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins.data.file_names import CHECKPOINTS
from rlhf_plugins.data.files import read_json
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from rlhf_plugins.engine.packing import Tensors

OF_TRAINER = "checkpoint-*"  # those that transformers writes
STATE, TENSORS, SUMS, DRAFT = "state.json", "tensors.safetensors", "checksums.json", ".draft"
TRAINER = "trainer_state.json"
APPENDED = "*.jsonl"  # files that a stage only appends to


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training of a stage, which may train several models one after the other."""

    stage: Path
    training: int = 0

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.stage / CHECKPOINTS / f"{self.training:03d}"

    def write(self, step: int, state: Any, tensors: Tensors, trainer: str, keep: int) -> Path:
        """Writes one whole, then deletes those before the newest `keep`. Raises OSError."""
        from safetensors.torch import save_file

        draft, made = self.folder / f"{DRAFT}-{step}", self.folder / f"{step:08d}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            _write(draft / STATE, json.dumps(state))
            _write(draft / TRAINER, trainer)
            save_file(tensors, draft / TENSORS)
            _synced(draft / TENSORS)
            _write(draft / SUMS, json.dumps({name: _digest(draft / name) for name in (STATE, TENSORS, TRAINER)}))
            _synced(draft)
            shutil.rmtree(made, ignore_errors=True)  # torn, or made by an attempt before this one
            draft.rename(made)
            _synced(self.folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        for old in self.every()[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
        return made

    def every(self) -> list[Path]:
        """Whole and torn ones, by step."""
        return sorted(path for path in self.folder.glob("[0-9]*") if path.is_dir())

    def newest(self) -> Path | None:
        """The newest that is whole; None where there is none."""
        return next((path for path in reversed(self.every()) if not fault(path)), None)


def fault(checkpoint: Path) -> str:
    """What is wrong with the files of a checkpoint; empty where it is whole."""
    try:
        sums = read_json(checkpoint / SUMS)
        wrong = [name for name in (STATE, TENSORS, TRAINER) if _digest(checkpoint / name) != sums[name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{wrong[0]} is not as it was written" if wrong else ""


def read(checkpoint: Path) -> tuple[Any, Tensors]:
    """The state and the tensors of a checkpoint that is whole. Raises RunError where it cannot be read."""
    from safetensors.torch import load_file

    try:
        return json.loads((checkpoint / STATE).read_bytes()), load_file(checkpoint / TENSORS)
    except (OSError, ValueError) as error:
        raise RunError(f"{checkpoint}: cannot be read: {error}; delete it and resume from the one before") from error


def appended(stage: Path) -> dict[str, int]:
    """The sizes of the files of a stage that are appended to; what they hold so far survives the machine's end."""
    found = sorted(stage.glob(APPENDED))
    for file in found:
        _synced(file)
    return {file.name: file.stat().st_size for file in found}


def best(stage: Path) -> list[str]:
    """The folders that transformers keeps the best weights in."""
    return sorted(path.name for path in stage.glob("checkpoint-*"))


def rewind(stage: Path) -> list[str]:
    """Takes a stage's folder back to its newest whole checkpoint; returns a sentence for each torn one.

    That is in its first training that is not finished. Files that were appended to are cut, and torn checkpoints and
    all that was made later are deleted.
    """
    torn: list[str] = []
    state: dict[str, Any] = {"finished": True, "files": {}, "best": []}
    goes_on = 0
    while state["finished"] and (found := _without_torn(Checkpoints(stage, goes_on), stage, torn)):
        state, goes_on = read(found)[0], goes_on + 1
    for later in (stage / CHECKPOINTS).glob("[0-9]*"):
        if int(later.name) >= goes_on:
            shutil.rmtree(later, ignore_errors=True)
    if not goes_on:
        finished(stage)
    for file in stage.glob(APPENDED):
        if file.name in state["files"]:
            os.truncate(file, state["files"][file.name])
        else:
            file.unlink()
    for name in set(best(stage)) - set(state["best"]):
        shutil.rmtree(stage / name, ignore_errors=True)
    return torn


def _without_torn(own: Checkpoints, stage: Path, torn: list[str]) -> Path | None:
    """The newest whole checkpoint of a training, after those that are torn are deleted."""
    for draft in own.folder.glob(f"{DRAFT}-*"):
        shutil.rmtree(draft, ignore_errors=True)
    for path in reversed(own.every()):
        if not (wrong := fault(path) or _short(path, stage)):
            return path
        torn.append(f"{path.relative_to(stage.parent)} is torn ({wrong}), so the one before is used")
        shutil.rmtree(path, ignore_errors=True)
    return None


def _short(checkpoint: Path, stage: Path) -> str:
    """A file beside the checkpoint that lost lines which the checkpoint counts on."""
    sizes = read(checkpoint)[0]["files"]
    lost = (name for name, size in sizes.items() if not _has(stage / name, size))
    return next((f"{name} lost lines" for name in lost), "")


def _has(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size >= size


def is_trained(stage: Path) -> bool:
    """Whether a stage goes on after its trainings, none of which will write its files again; after `rewind`."""
    trainings = sorted(int(path.name) for path in (stage / CHECKPOINTS).glob("[0-9]*"))
    newest = Checkpoints(stage, trainings[-1]).newest() if trainings else None
    return newest is not None and bool(read(newest)[0]["finished"])


def newest_step(stage: Path) -> int:
    """The step of the newest checkpoint of a stage and its parts, torn or whole; 0 where there is none."""
    folders = (file.parent for file in stage.glob(f"**/{CHECKPOINTS}/*/[0-9]*/{SUMS}"))
    newest = max(folders, key=lambda folder: folder.stat().st_mtime_ns, default=None)
    return 0 if newest is None else int(newest.name)


def of_checkpoint(path: Path) -> bool:
    """Whether a file or folder of a stage is what a checkpoint goes on from, after `rewind`."""
    return path.name == CHECKPOINTS or path.match(OF_TRAINER) or path.match(APPENDED)


def finished(stage: Path) -> None:
    """Deletes the checkpoints of a stage whose result is written."""
    shutil.rmtree(stage / CHECKPOINTS, ignore_errors=True)


def _write(file: Path, content: str) -> None:
    with file.open("w", encoding="utf-8", errors="surrogatepass") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _synced(path: Path) -> None:
    """Has the system write a file, or the names in a folder, to the disk."""
    with suppress(OSError):  # systems that cannot
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
