"""A run's folder -> its report: joins what the stages left with what the run ran on; it measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlhf_plugins import report
from rlhf_plugins.contract.run import StageResult
from rlhf_plugins.errors import RunError
from rlhf_plugins.registry.discovery import FILE
from rlhf_plugins.report.schema import Report
from rlhf_plugins.run.folder import RunFolder

# What a stage of kind `evaluate` may leave in its metrics, under the report's own names.
EVALUATED = ("policies", "reference", "ceiling", "reward_model", "samples", "score_name", "notes", "data")
ROLLOUTS = "rollouts"  # what a stage may leave of what its policy said while it was trained
REWARD_MODELS = "reward_models"  # what any stage may leave of reward models that it measured, by name


def surroundings() -> dict[str, Any]:
    """What a run runs on: package versions and hardware."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"versions": report.versions(), "hardware": report.hardware(gpu).model_dump()}


def build(folder: RunFolder) -> Report:
    """The report of a run, finished or not, from its folder alone. Raises RunError when parts do not fit."""
    status, results = folder.status(), folder.finished()
    try:
        values = _values(folder, status, results)
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder.path}: its status is damaged: {type(error).__name__}: {error}") from error
    try:
        return Report.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{folder.path}: what the run left is no report: {where}: {first['msg']}") from error


def _values(folder: RunFolder, status: Mapping[str, Any], results: list[StageResult]) -> dict[str, Any]:
    """What a report is made of."""
    values = {
        "title": folder.path.resolve().name,
        "recipe": folder.recipe(),
        "stages": [_stage(result) for result in results],
        **{name: status.get(name) for name in ("started", "status", "versions", "hardware", "plugins")},
        "data": _data(status["data"], results),
        "finished": status.get("finished", status.get("started")),
        **_evaluated(results),
    }
    values["notes"] = [*values.get("notes", ()), *_files(status), *status.get("hook_faults", ())]
    if values["status"] == "running":  # a process that was killed said nothing more
        values["status"] = "interrupted"
    return values


def write(folder: RunFolder, made: Report) -> Path:
    """Writes report.json and report.html, and returns the page's path. Raises RunError."""
    return report.write(folder.path, made)


def _files(status: Mapping[str, Any]) -> list[str]:
    """A sentence on each plugin that is no package."""
    files = [plugin for plugin in status.get("plugins", ()) if plugin["distribution"] == FILE]
    return [
        f"{plugin['name']} is a file that the recipe names, not a package: {plugin['version']}." for plugin in files
    ]


def _stage(result: StageResult) -> dict[str, Any]:
    own = {name: getattr(result, name) for name in ("name", "kind", "seconds", "peak_bytes", "curves")}
    return {**own, ROLLOUTS: result.metrics.get(ROLLOUTS, [])}


def _data(data: Mapping[str, Any], results: list[StageResult]) -> dict[str, Any]:
    """What was loaded, with what loading dropped and what each stage left out or cut."""
    left_out = {
        f"{result.name}: {reason}": count
        for result in results
        for reason, count in result.metrics.get("left_out", {}).items()
        if count
    }
    return {**data, "dropped": {**data["dropped"], **left_out}}


def _evaluated(results: list[StageResult]) -> Mapping[str, Any]:
    """What the last evaluation found of each policy and reward model, with the cost of the stage of its name."""
    metrics = next((result.metrics for result in reversed(results) if result.kind == "evaluate"), {})
    found = {name: metrics[name] for name in EVALUATED if name in metrics}
    found[REWARD_MODELS] = {
        name: values for result in results for name, values in result.metrics.get(REWARD_MODELS, {}).items()
    }
    costs = {result.name: {"seconds": result.seconds, "peak_bytes": result.peak_bytes} for result in results}
    for trained in found.keys() & {"policies", REWARD_MODELS}:
        found[trained] = {name: {**values, **costs.get(name, {})} for name, values in found[trained].items()}
    return found
