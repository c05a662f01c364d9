"""A run's folder: what is in it, and how it is written so that a crash at any moment leaves it readable.

recipe.yaml             the resolved recipe; with status.json it marks a folder as a run
status.json             how far the run came, and what it runs on
<NN>-<stage>/result.json   a finished stage; without it the stage is not finished
<NN>-<stage>/<part>/       a stage that this stage ran: call.json says how it was called, result.json what it made
<NN>-<stage>/once/         what the stage made at most once
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import to_json

from rlhf_plugins.contract.run import StageResult
from rlhf_plugins.errors import RunError
from rlhf_plugins.run import results

RECIPE, STATUS, RESULT, CALL = "recipe.yaml", "status.json", "result.json", "call.json"
ONCE = "once"


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
        return not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir()))

    def recipe(self) -> dict[str, Any]:
        """The resolved recipe that the run was started with. Raises RunError when there is none."""
        try:
            recipe = yaml.safe_load((self.path / RECIPE).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise RunError(f"{self.path / RECIPE} cannot be read: {error}") from error
        return recipe if isinstance(recipe, dict) else {}

    def status(self) -> dict[str, Any]:
        """How far the run came. Raises RunError when it says nothing."""
        status = _read_json(self.path / STATUS)
        return status if isinstance(status, dict) else {}

    def start(self, recipe: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Makes the folder and says what will run in it. Raises RunError when it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
            put(self.path / RECIPE, text.encode())
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror}") from error
        self.note(**status)

    def note(self, **changes: Any) -> None:
        """Changes entries of the status."""
        path = self.path / STATUS
        status = self.status() if path.exists() else {}
        put(path, _json(status | changes))

    def stage(self, index: int, name: str) -> Path:
        """The folder of a stage."""
        return self.path / f"{index + 1:02d}-{name}"

    def fresh_stage(self, index: int, name: str) -> Path:
        """The folder of a stage, cleared of what an unfinished attempt left."""
        return cleared(self.stage(index, name))

    def save(self, folder: Path, result: StageResult) -> StageResult:
        """Marks the stage of a folder as finished, and returns its result as a later process will read it."""
        if result.data is not None:
            from rlhf_plugins.data.store import save_data

            save_data(result.data, folder / results.DATA)
        put(folder / RESULT, _json(results.to_values(result, self.path)))
        return self.result(folder)

    def result(self, folder: Path) -> StageResult:
        """What the stage of a folder made. Raises RunError when it cannot be read."""
        file = folder / RESULT
        try:
            return results.from_values(_read_json(file), folder, self.path)
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{file} is not the result of a stage; delete its folder and resume") from error

    def finished(self) -> list[StageResult]:
        """The finished stages, in order. Raises RunError when one cannot be read."""
        return [self.result(file.parent) for file in sorted(self.path.glob(f"[0-9][0-9]-*/{RESULT}"))]

    def kept(self, names: Sequence[str]) -> list[StageResult]:
        """The finished of these stages, up to the first that is not finished. Raises RunError as `finished` does."""
        found = {result.name: result for result in self.finished()}
        return [found[name] for name in takewhile(found.__contains__, names)]

    def every(self) -> list[StageResult]:
        """The finished stages with their parts, each part before its stage. Raises RunError as `finished` does."""
        return [self.result(file.parent) for file in sorted(self.path.rglob(RESULT))]

    def remove(self) -> None:
        """Deletes the run. Raises RunError when the folder is not recognisably one."""
        if not self.is_run or self.path.is_symlink():
            raise RunError(f"{self.path} is not a run of rlhf, so it is not overwritten; choose another output_dir")
        shutil.rmtree(self.path)


def _json(value: Any) -> bytes:
    """JSON in which NaN is null and arrays are lists."""
    return to_json(value, indent=2, inf_nan_mode="null", fallback=lambda array: array.tolist()) + b"\n"


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error


def cleared(folder: Path) -> Path:
    """The folder without what an unfinished attempt left, but for what `once` and `train` made; made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name in (ONCE, CALL) or (path / CALL).exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    return folder


def put(file: Path, content: bytes) -> None:
    """Writes a file that is never half written, also when the machine stops."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    with draft.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
