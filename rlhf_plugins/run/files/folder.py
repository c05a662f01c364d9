"""A run's folder: its files, written so that a crash at any moment leaves it readable.

recipe.yaml             the resolved recipe; with status.json it marks a folder as a run
status.json             whether the run has finished, where it stopped, the data, versions, hardware, memory of the GPU
<NN>-<stage>/result.json   a finished stage, with digests of its files; without it the stage is not finished
<NN>-<stage>/<part>/       a stage that this stage ran: call.json holds the stage and its inputs, result.json its result
<NN>-<stage>/trained_on.json   of a stage with rows of its own: the hashes of the prompts that it learned from
<NN>-<stage>/once/         the results of `Run.once`
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import PydanticSerializationError, to_json

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.run import StageResult
from rlhf_plugins.data.digests import of_folder
from rlhf_plugins.data.file_names import CALL, CRITICS_OPTIMIZER, FILES, OPTIMIZER, RECIPE, RESULT, STAGE_ROWS, STATUS
from rlhf_plugins.data.files import put, read_json
from rlhf_plugins.errors import RunError
from rlhf_plugins.run.files import results
from rlhf_plugins.run.files.checkpoints import finished, is_trained, of_checkpoint, rewind

LOCK = ".lock"  # while a process runs in the folder
ONCE = "once"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
WENT_ON = "went_on"  # key of the status: what had changed when the run was resumed
GPU = "gpu_memory"  # key of the status: bytes in use while the run goes on


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds a run, or will."""

    path: Path

    @property
    def is_run(self) -> bool:
        """Whether the folder is recognisably a run of ours."""
        try:
            return "stages" in self.recipe() and "status" in self.status()
        except RunError:
            return False

    @property
    def is_free(self) -> bool:
        """Whether a new run may be written here: nothing is there, or an empty folder."""
        return not self.path.exists() or (self.path.is_dir() and not self._content())

    def recipe(self) -> dict[str, Any]:
        """The resolved recipe that the run was started with. Raises RunError when there is none."""
        try:
            recipe = yaml.load((self.path / RECIPE).read_text(encoding="utf-8"), LOADER)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise RunError(f"{self.path / RECIPE} cannot be read: {error}") from error
        return recipe if isinstance(recipe, dict) else {}

    def status(self) -> dict[str, Any]:
        """The status of the run. Raises RunError when it cannot be read."""
        status = _read_json(self.path / STATUS)
        return status if isinstance(status, dict) else {}

    def start(self, recipe: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Makes the folder and writes the recipe and the status. Raises RunError when it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
            put(self.path / RECIPE, text.encode())
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror}") from error
        except UnicodeEncodeError as error:
            raise RunError(f"{self.path / RECIPE} cannot be written: the recipe holds half a character") from error
        self.note(**status)

    def note(self, **changes: Any) -> None:
        """Changes entries of the status; of several processes the main one does."""
        if processes.index():
            return
        path = self.path / STATUS
        status = self.status() if path.exists() else {}
        _put(path, _json(status | changes))

    def rewind(self, stage: Path) -> list[str]:
        """Takes a stage's folder back to its newest whole checkpoint; notes a sentence for each that is torn."""
        torn = rewind(stage)
        if torn and self.is_run:
            self.note(**{WENT_ON: [*self.status().get(WENT_ON, ()), *torn]})
        return torn

    def stage(self, index: int, name: str) -> Path:
        """The folder of a stage."""
        return self.path / f"{index + 1:02d}-{name}"

    def fresh_stage(self, index: int, name: str) -> Path:
        """The folder of a stage, without what an unfinished attempt made after its newest checkpoint."""
        return cleared(self.stage(index, name))

    def save(self, folder: Path, result: StageResult) -> StageResult:
        """Marks the stage of a folder as finished, and returns its result as a later process will read it."""
        if result.data is not None:
            from rlhf_plugins.data.store import save_data

            save_data(result.data, folder / STAGE_ROWS)
        _put(folder / RESULT, _json({**results.to_values(result, self.path), FILES: of_folder(folder)}))
        finished(folder)
        return self.result(folder)

    def drop_checkpoints(self) -> None:
        """Deletes those of finished stages: a kill between a stage's result and this leaves them."""
        for file in self.path.rglob(RESULT):
            finished(file.parent)

    def result(self, folder: Path) -> StageResult:
        """The result of the stage in a folder. Raises RunError when it cannot be read."""
        file = folder / RESULT
        try:
            values = {name: value for name, value in _read_json(file).items() if name != FILES}
            return results.from_values(values, folder, self.path)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"{file} is not the result of a stage; delete its folder and resume") from error

    def finished(self) -> list[StageResult]:
        """The finished stages, in order. Raises RunError when one cannot be read."""
        from rlhf_plugins.data.other_run import of_stages

        return [self.result(file.parent) for file in of_stages(self.path)]

    def kept(self, names: Sequence[str]) -> list[StageResult]:
        """The finished of these stages, up to the first that is not finished. Raises RunError as `finished` does."""
        found = {result.name: result for result in self.finished()}
        return [found[name] for name in takewhile(found.__contains__, names)]

    def every(self) -> list[StageResult]:
        """The finished stages with their parts, each part before its stage. Raises RunError as `finished` does."""
        from rlhf_plugins.data.other_run import of_every

        return [self.result(file.parent) for file in of_every(self.path)]

    def remove(self) -> None:
        """Deletes what the folder holds. Raises RunError when it is not recognisably a run, or a stage would stay."""
        if not self.is_run or self.path.is_symlink():
            raise RunError(f"{self.path} is not a run of rlhf, so it is not overwritten; choose another output_dir")
        last = [path for path in self._content() if path.name in (RECIPE, STATUS)]
        for path in (path for path in self._content() if path not in last):
            _delete(path)
        if kept := next(self.path.rglob(RESULT), None):  # the new run would take it for its own
            raise RunError(f"{kept.parent} cannot be deleted, so {self.path} is not overwritten; delete it yourself")
        for path in last:  # a run that is half deleted is still one
            _delete(path)

    def _content(self) -> list[Path]:
        return [path for path in self.path.iterdir() if path.name != LOCK]


def _json(value: Any) -> bytes:
    """JSON in which NaN is null and arrays are lists. Raises RunError for a value that JSON cannot hold."""
    try:
        return to_json(value, indent=2, inf_nan_mode="null", fallback=_listed) + b"\n"
    except PydanticSerializationError as error:
        raise RunError(f"the result cannot be saved: {error}") from error


def _listed(value: Any) -> Any:
    """An array as lists. Raises TypeError for anything else."""
    if isinstance(value, type) or not hasattr(value, "tolist"):
        raise TypeError(f"JSON cannot hold {value!r:.80}, a {type(value).__name__}: leave it out, or write it as text")
    return value.tolist()


def _read_json(file: Path) -> Any:
    try:
        return read_json(file)
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error


def cleared(folder: Path) -> Path:
    """The folder as an unfinished attempt left it at its newest checkpoint, with what `once` and `train` made.

    It is made if missing. Without a checkpoint all else is deleted.

    Raises:
        RunError: a file or a link is in its place, or it cannot be made.
    """
    own(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from error
    rewind(folder)
    kept = (ONCE, CALL, OPTIMIZER, CRITICS_OPTIMIZER) if is_trained(folder) else (ONCE, CALL)
    for path in folder.iterdir():
        if path.name not in kept and not of_checkpoint(path) and not (path / CALL).exists():
            _delete(path)
    return folder


def own(folder: Path) -> Path:
    """The folder. Raises RunError where a link or a file is in its place: nothing is written or deleted through it."""
    if folder.is_symlink():
        raise RunError(f"{folder} is a link, and a run writes into folders of its own; remove it")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file where a run needs a folder; remove it")
    return folder


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def _put(file: Path, content: bytes) -> None:
    try:
        put(file, content)
    except OSError as error:
        raise RunError(f"{file}: cannot be written: {error.strerror}") from error
