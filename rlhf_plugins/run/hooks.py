"""Calls the hooks of a run, plugin by plugin. A hook that fails is reported with its plugin, and the others go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins.errors import ReportError, RunError, StopRun
from rlhf_plugins.registry.registry import Registry
from rlhf_plugins.run.files.folder import RunFolder

if TYPE_CHECKING:
    from rlhf_plugins.contract.run import StageResult


@dataclass
class Hooks:
    """The hooks of one run."""

    registry: Registry
    folder: RunFolder
    say: Callable[[str], None]
    failed: list[str] = field(default_factory=list)
    unreported: str = ""  # why the report could not be written

    def started(self, recipe: Mapping[str, Any]) -> None:
        """The run begins or goes on. Raises StopRun when a plugin refuses it."""
        self._call("run_started", StopRun, recipe=dict(recipe))

    def logged(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """A stage logged numbers. Raises StopRun when a plugin wants the run to end."""
        self._call("step_logged", StopRun, stage=stage, step=step, values=dict(values))

    def sampled(self, stage: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """A stage wrote responses to its table. Raises StopRun when a plugin wants the run to end."""
        self._call("samples_logged", StopRun, stage=stage, step=step, rows=[dict(row) for row in rows])

    def stage_started(self, folder: Path, stage: str, total_steps: int | None) -> None:
        """A stage, or a part of one as `outer/name`, begins. Raises StopRun where a plugin does not let it run."""
        self._call("stage_started", StopRun, folder=folder, stage=stage, total_steps=total_steps)

    def stage_finished(self, folder: Path, result: StageResult) -> None:
        """A stage finished."""
        self._call("stage_finished", (), folder=folder, result=result)

    def finished(self) -> None:
        """The run ended, with the status in its folder."""
        self._call("run_finished", (), status=self.folder.status()["status"])

    def _call(self, hook: str, passes: type[Exception] | tuple[()], **given: Any) -> None:
        for plugin, implementation in self.registry.hooks(hook):
            try:
                implementation(**{"folder": self.folder.path, **given})
            except passes:
                raise
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # also a plugin that ends the process
                self._report(f"plugin {plugin}: {hook} failed: {type(error).__name__}: {error}")
                if isinstance(error, ReportError):
                    self.unreported = str(error)

    def _report(self, what: str) -> None:
        """Reports a failure once, on the console and in the run's report."""
        if what not in self.failed:
            self.failed.append(what)
            self.say(f"warning: {what}")
            with suppress(RunError):  # it is on the console, where the disk is full
                noted = self.folder.status().get("hook_faults", ())  # with those of earlier processes of this run
                self.folder.note(hook_faults=[*dict.fromkeys([*noted, what])])
