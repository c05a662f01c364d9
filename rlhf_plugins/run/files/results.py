"""A stage's result as JSON and back. Paths inside the run's folder are saved relative to it, so that it can be moved.

In a spec such a path begins with `run:`, wherever in the spec it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.run import MARK, Cost, Curve, Evaluation, ReportParts, Section, StageResult
from rlhf_plugins.data.file_names import STAGE_ROWS

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data


def to_values(result: StageResult, root: Path) -> dict[str, Any]:
    """The values in `result.json`; data is `data.jsonl` beside it.

    Args:
        result: the result of a finished stage.
        root: the run's folder.
    """
    values = {item.name: getattr(result, item.name) for item in dataclasses.fields(result)}
    base = inside(result.base, root) if result.base else None
    values["base"] = base or (None if result.base is None else str(result.base))
    values |= {part: relative(values[part], root) for part in ("policies", "rewards")}
    values["data"] = None if result.data is None else STAGE_ROWS
    return values


def from_values(values: Mapping[str, Any], folder: Path, root: Path) -> StageResult:
    """The result that a stage's folder holds. Raises KeyError, TypeError or DataError where it is damaged."""
    values = dict(values)
    if not isinstance(values["name"], str) or not isinstance(values["metrics"], dict):
        raise TypeError("it has no name, or no metrics")
    for part in ("policies", "rewards"):
        values[part] = absolute(values[part], root)
    values["base"] = None if values["base"] is None else root / values["base"]
    values["data"] = None if values["data"] is None else _read_data(folder / values["data"])
    found = values["evaluation"]
    values["evaluation"] = None if found is None else Evaluation(**found)
    values["sections"] = tuple(Section(**each) for each in values["sections"])
    values["curves"] = {name: _curve(each) for name, each in values["curves"].items()}
    values["report"], values["cost"] = ReportParts(**values["report"]), Cost(**values["cost"])
    return StageResult(**{**values, "opened": tuple(values["opened"])})


def _read_data(file: Path) -> Data:
    from rlhf_plugins.data.store import load_data

    return load_data(file)


def relative(spec: Any, root: Path) -> Any:
    """A spec in which paths inside the run's folder are relative to it and marked."""
    return _mapped(spec, lambda text: f"{MARK}{within}" if (within := inside(text, root)) else str(text))


def absolute(spec: Any, root: Path) -> Any:
    """The inverse of `relative`."""
    return _mapped(spec, lambda text: str(root / text.removeprefix(MARK)) if str(text).startswith(MARK) else text)


def inside(path: str | Path, root: Path) -> str | None:
    """The path relative to the run's folder; None where it is not below it."""
    for folder in (root, root.resolve()):
        if folder.parts and Path(path).is_relative_to(folder) and Path(path) != folder:
            return Path(path).relative_to(folder).as_posix()
    return None


def _mapped(spec: Any, change: Callable[[Any], str]) -> Any:
    if isinstance(spec, Mapping):
        return {name: _mapped(value, change) for name, value in spec.items()}
    if isinstance(spec, list | tuple):
        return [_mapped(value, change) for value in spec]
    return change(spec) if isinstance(spec, str | Path) else spec


def _curve(values: Mapping[str, Any]) -> Curve:
    return Curve(**{**values, "points": [tuple(point) for point in values["points"]]})
