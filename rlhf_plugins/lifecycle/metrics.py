"""`metrics.jsonl` in a run's folder: one line per stage and step, as it is logged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from rlhf_plugins.contract.hookspecs import hookimpl

if TYPE_CHECKING:
    from rlhf_plugins.contract.run import StageResult

METRICS = "metrics.jsonl"


@hookimpl
def run_started(folder: Path) -> None:
    """Keeps the lines of finished stages; a stage that stopped runs again."""
    _rewrite(folder)


@hookimpl
def step_logged(folder: Path, stage: str, step: int, values: dict[str, float]) -> None:
    """Adds a line at once, so that a run can be watched."""
    with (folder / METRICS).open("ab") as file:
        file.write(_line({"stage": stage, "step": step, **values}))


@hookimpl
def run_finished(folder: Path, status: str) -> None:
    """Joins what was logged at one step; a run that stopped keeps what its last stage logged."""
    if status == "finished":
        _rewrite(folder)


def _rewrite(folder: Path) -> None:
    from rlhf_plugins.data.files import put
    from rlhf_plugins.run.files.folder import RunFolder

    lines = (_line(line) for result in RunFolder(folder).every() for line in _steps(result))
    put(folder / METRICS, b"".join([*_of_session(folder / METRICS), *lines]))


def _of_session(file: Path) -> Iterator[bytes]:
    """The lines that a session logged itself, outside of every stage."""
    if file.exists():
        lines = file.read_bytes().splitlines(keepends=True)
        yield from (line for line in lines if line.startswith(b'{"stage":"",') and line.endswith(b"\n"))


def _steps(result: StageResult) -> Iterator[dict[str, Any]]:
    steps: dict[int, dict[str, Any]] = {}
    for name, curve in result.curves.items():
        for step, value in curve.points:
            steps.setdefault(step, {"stage": result.name, "step": step})[name] = value
    yield from (steps[step] for step in sorted(steps))


def _line(values: dict[str, Any]) -> bytes:
    return to_json(values, inf_nan_mode="null") + b"\n"
