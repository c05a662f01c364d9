"""Builds the report of a run from its folder: results of stages, versions and hardware. It measures nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlhf_plugins import report
from rlhf_plugins.contract.rows import Data
from rlhf_plugins.contract.run import StageResult
from rlhf_plugins.data.digests import of_reward_models
from rlhf_plugins.errors import RunError
from rlhf_plugins.registry.discovery import OWN_FILE, Plugin
from rlhf_plugins.report.schema import FORMAT, Report
from rlhf_plugins.report.words import duration
from rlhf_plugins.run.files.comparing import policies, with_costs
from rlhf_plugins.run.files.folder import WENT_ON, RunFolder
from rlhf_plugins.run.files.forecasts import forecast_bytes

DIGEST = "digest"  # key of the status: digest of the rows


def surroundings() -> dict[str, Any]:
    """Package versions and hardware."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"versions": report.versions(), "hardware": report.hardware(gpu).model_dump()}


def birth(data: Data, plugins: Iterable[Plugin]) -> dict[str, Any]:
    """The first status of a run."""
    return {
        "status": "running",
        "started": now(),
        **surroundings(),
        "plugins": [vars(plugin) for plugin in plugins],
        "data": counted(data),
    }


def counted(data: Data) -> dict[str, Any]:
    """How many rows were loaded, and which."""
    from rlhf_plugins.data.store import digest

    counts = {"train": len(data.train), "test": len(data.test), "dropped": dict(data.dropped)}
    return {**counts, DIGEST: digest(data)}


def now() -> str:
    """The time, as the status holds it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def build(folder: RunFolder) -> Report:
    """The report of a run, finished or not, from its folder alone. Raises RunError when parts do not fit."""
    status, results = folder.status(), folder.finished()
    try:
        values = _values(folder, status, results)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{folder.path}: its status or a result is damaged: {type(error).__name__}: {error}") from error
    try:
        return Report.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{folder.path}: what the run left is no report: {where}: {first['msg']}") from error


def _values(folder: RunFolder, status: Mapping[str, Any], results: list[StageResult]) -> dict[str, Any]:
    """The values of a report."""
    from rlhf_plugins.run.files.lock import in_use

    values = {
        "format": FORMAT,
        "title": folder.path.resolve().name,
        "recipe": folder.recipe(),
        "stages": [_stage(result, status) for result in results],
        **{name: status.get(name) for name in ("started", "status", "versions", "hardware", "plugins")},
        "data": _data(status["data"], results),
        "finished": status.get("finished", status.get("started")),
        **_evaluated(results),
    }
    if (judge := values.get("judge")) and judge.get("stage"):
        values["judge"] = {**judge, "digest": _digest(folder, results, judge["stage"])}
    if values["status"] == "running" and in_use(folder.path):
        return values | _going_on(folder, status, values)
    values["notes"] = [*values["notes"], *_files(status), *status.get(WENT_ON, ()), *status.get("hook_faults", ())]
    if values["status"] == "running":  # a process that was killed could not write its status
        values["status"] = "interrupted"
    return values


def _digest(folder: RunFolder, results: list[StageResult], stage: str) -> str:
    """The digest of the reward models of a finished stage."""
    places = {result.name: place for place, result in enumerate(results)}
    return of_reward_models(folder.stage(places[stage], stage)) if stage in places else ""


def _going_on(folder: RunFolder, status: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a run that goes on: the curves of its stage so far, and where it is."""
    from rlhf_plugins.run.files.record import RunRecord

    found: dict[str, Any] = {"finished": now(), "progress": "its first stage begins"}
    if not (name := status.get("stage")):
        return found
    names = [str(stage.get("name", stage["stage"])) for stage in values["recipe"]["stages"]]
    record = RunRecord(folder.path)
    curves = record.curves(name) if name in record.stages() else {}
    at = max((step for curve in curves.values() for step, _ in curve.points), default=None)
    steps, left = status.get("steps"), status.get("left")
    words = [
        f"stage {name}, {names.index(name) + 1} of {len(names)}" if name in names else f"stage {name}",
        "" if at is None else f"step {at:,}" + (f" of {steps:,}" if steps else ""),
        "" if left is None else f"about {duration(left)} of the run were left when the stage began",
    ]
    running = StageResult(name=name, curves=curves)
    stages = [*values["stages"], _stage(running, status)] if curves else values["stages"]
    return {**found, "stages": stages, "progress": ", ".join(filter(None, words))}


def show(folder: RunFolder) -> None:
    """Writes the page of a run that goes on. Raises RunError as `build` does, and ReportError."""
    report.show(folder.path, build(folder))


def write(folder: RunFolder, made: Report) -> Path:
    """Writes report.json and report.html, and returns the page's path. Raises ReportError."""
    return report.write(folder.path, made)


def _files(status: Mapping[str, Any]) -> list[str]:
    """A sentence for each plugin that is a file."""
    files = [plugin for plugin in status.get("plugins", ()) if plugin["distribution"] == OWN_FILE]
    return [
        f"{plugin['name']} is a file that the recipe names, not a package: {plugin['version']}." for plugin in files
    ]


def _stage(result: StageResult, status: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": result.name,
        "stage": result.stage or "stage",
        "cost": {**asdict(result.cost), "forecast_bytes": forecast_bytes(status, result.name)},
        "curves": {name: asdict(curve) for name, curve in result.curves.items()},
        "rollouts": list(result.report.rollouts),
        "sections": [asdict(section) for section in result.sections],
        "metrics": dict(result.metrics),
        "opened": list(result.opened),
        "start": result.start,
        "reference": result.reference,
    }


def _data(data: Mapping[str, Any], results: list[StageResult]) -> dict[str, Any]:
    """Counts of the rows that were loaded and dropped, and of those that each stage left out or cut."""
    left_out = {
        f"{result.name}: {reason}": count for result in results for reason, count in result.report.left_out.items()
    }
    shown = {name: value for name, value in data.items() if name != DIGEST}
    shown["of_stages"] = {result.name: dict(result.report.own_data) for result in results if result.report.own_data}
    return {**shown, "dropped": {why: count for why, count in {**data["dropped"], **left_out}.items() if count}}


def _evaluated(results: list[StageResult]) -> Mapping[str, Any]:
    """The last evaluation of policies and those before it, and the last of each reward model, with training costs."""
    makers = {name: result for result in results for name in (result.name, *result.policies, *result.rewards)}
    models = {name: row for result in results for name, row in result.report.reward_models.items()}
    notes = dict.fromkeys(note for result in results for note in result.report.notes)
    found: dict[str, Any] = {"reward_models": with_costs(models, makers), "notes": list(notes)}
    judged = [result for result in results if result.evaluation or result.report.policies]
    if not judged:
        return found
    *earlier, last = judged
    parts = {name: getattr(last.report, name) for name in ("ceiling", "reward_model", "samples")}
    before = {result.name: policies(result, makers) for result in earlier}
    return {**found, **parts, **policies(last, makers), "evaluations": before}
