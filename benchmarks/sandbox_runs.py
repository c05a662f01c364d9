"""Runs recipes for the benchmarks of policies; a training that stops is left out and reported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Recipe = dict[str, Any]


class Ran(NamedTuple):
    """The report of a run, and the trainings that stopped with what they said."""

    report: dict[str, Any]
    stopped: dict[str, str]


def read(file: Path) -> Recipe:
    """A recipe as it is written."""
    recipe: Recipe = yaml.safe_load(file.read_text())
    return recipe


def ran(recipe: Recipe, folder: Path, attempt: int = 0) -> Ran:
    """Runs a recipe in `folder`, or goes on where it was interrupted; a finished run is read, not run again.

    Where a stage fails the rest is run without it, in a folder beside the first.
    """
    place = folder if attempt == 0 else folder.with_name(f"{folder.name}_without_{attempt}")
    if not finished(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        written = place.with_suffix(".yaml")
        written.write_text(yaml.safe_dump({**recipe, "output_dir": str(place)}, sort_keys=False))
        command = [sys.executable, "-m", "rlhf_plugins.cli", "run", str(written)]
        command += ["--resume"] if (place / "status.json").exists() else []
        print(f"{place.name}: running", flush=True)
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            return _without_what_failed(recipe, folder, attempt, done.stderr)
    return Ran(json.loads((place / "report.json").read_text()), {})


def finished(folder: Path) -> bool:
    """Whether the run of a folder is; one that was interrupted has a report too."""
    file = folder / "status.json"
    return file.exists() and json.loads(file.read_text())["status"] == "finished" and (folder / "report.json").exists()


def _without_what_failed(recipe: Recipe, folder: Path, attempt: int, errors: str) -> Ran:
    place = folder if attempt == 0 else folder.with_name(f"{folder.name}_without_{attempt}")
    status = json.loads((place / "status.json").read_text()) if (place / "status.json").exists() else {}
    failed = str(status.get("stage")) if status.get("status") == "failed" else ""
    stages = [stage for stage in recipe["stages"] if stage.get("name", stage["stage"]) != failed]
    if len(stages) == len(recipe["stages"]):
        raise SystemExit(f"{place} did not run:\n{errors[-3000:]}")
    rest = ran({**recipe, "stages": stages}, folder, attempt + 1)
    return Ran(rest.report, {failed: status["message"], **rest.stopped})
