"""The two files of a report in a run's folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from rlhf_plugins.errors import ReportError, RunError
from rlhf_plugins.report.schema import Report

_JSON, PAGE = "report.json", "report.html"


def write(folder: Path, report: Report) -> Path:
    """Write `report.json`, then `report.html` beside it, and return the page's path.

    Raises ReportError when a file cannot be written; a file of the same name is then as it was.
    """
    # Imported here because it brings matplotlib, which reading a report does not need.
    from rlhf_plugins.report.page import page

    try:
        text = report.model_dump_json(indent=2) + "\n"
    except ValueError as error:  # a lone surrogate in the recipe, which UTF-8 cannot hold
        raise ReportError(f"{folder / _JSON}: the report cannot be written as JSON: {error}") from error
    _replace(folder / _JSON, text)
    _replace(folder / PAGE, page(report))
    return folder / PAGE


def write_seeds(folder: Path, groups: Mapping[str, Sequence[Report]], unfinished: Sequence[str] = ()) -> Path:
    """Writes `report.html` over runs of several seeds and settings, and returns its path; raises as `write` does."""
    from rlhf_plugins.report.seeds_page import seeds_page

    _replace(folder / PAGE, seeds_page(folder.resolve().name, groups, unfinished))
    return folder / PAGE


def show(folder: Path, report: Report) -> None:
    """Writes `report.html` alone, of a run that goes on. Raises ReportError as `write` does."""
    from rlhf_plugins.report.page import page

    _replace(folder / PAGE, page(report))


def read(folder: Path) -> Report:
    """The report of a run's folder; raises RunError when `report.json` is absent or not a report."""
    path = folder / _JSON
    try:
        return Report.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path}: there is no report in this folder") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise RunError("\n".join(f"{path}: {fault}" for fault in _faults(error))) from error


def _replace(path: Path, text: str) -> None:
    # Not a NamedTemporaryFile, which only its owner could read.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(text, encoding="utf-8", newline="\n")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise ReportError(f"{path}: cannot be written: {error.strerror}") from error


def _faults(error: ValidationError) -> list[str]:
    located = ((".".join(map(str, fault["loc"])), fault["msg"]) for fault in error.errors())
    return [f"{where}: {message}" if where else message for where, message in located]
