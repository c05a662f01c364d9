"""A run's folder: what is in it, and how it is written so that a crash at any moment leaves it readable.

recipe.yaml             the resolved recipe; with status.json it marks a folder as a run
status.json             how far the run came, and what it runs on
<NN>-<stage>/result.json   a finished stage; without it the stage is not finished
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import to_json

from rlhf_plugins.contract.run import StageResult
from rlhf_plugins.errors import RunError

RECIPE, STATUS, RESULT = "recipe.yaml", "status.json", "result.json"
PATHS = ("base", "policy", "reward_model")


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
        """The folder of a stage, empty: what an unfinished attempt left is removed."""
        folder = self.stage(index, name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def save(self, index: int, result: StageResult) -> StageResult:
        """Marks a stage as finished, and returns its result as a later process will read it."""
        values = {item.name: getattr(result, item.name) for item in dataclasses.fields(result)}
        values |= {name: self._relative(values[name]) for name in PATHS}
        folder = self.stage(index, result.name)
        put(folder / RESULT, _json(values))
        return self._result(folder / RESULT)

    def finished(self) -> list[StageResult]:
        """The finished stages, in order. Raises RunError when one cannot be read."""
        return [self._result(file) for file in sorted(self.path.glob(f"[0-9][0-9]-*/{RESULT}"))]

    def remove(self) -> None:
        """Deletes the run. Raises RunError when the folder is not recognisably one."""
        if not self.is_run or self.path.is_symlink():
            raise RunError(f"{self.path} is not a run of rlhf, so it is not overwritten; choose another output_dir")
        shutil.rmtree(self.path)

    def _relative(self, path: Path | None) -> str | None:
        if path is None:
            return None
        inside = Path(path).resolve().is_relative_to(self.path.resolve())
        return str(Path(path).resolve().relative_to(self.path.resolve()) if inside else path)

    def _result(self, file: Path) -> StageResult:
        values = _read_json(file)
        try:
            values |= {name: self.path / values[name] for name in PATHS if values[name] is not None}
            values["curves"] = {name: [tuple(point) for point in curve] for name, curve in values["curves"].items()}
            return StageResult(**values)
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{file} is not the result of a stage; delete its folder and resume") from error


def _json(value: Any) -> bytes:
    """JSON in which NaN is null and arrays are lists."""
    return to_json(value, indent=2, inf_nan_mode="null", fallback=lambda array: array.tolist()) + b"\n"


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error


def put(file: Path, content: bytes) -> None:
    """Writes a file that is never half written."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(file)
