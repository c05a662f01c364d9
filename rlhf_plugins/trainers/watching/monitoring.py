"""Shows the steps of a training to its monitors, records their alarms and takes the actions that these ask for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from pydantic_core import from_json, to_json
from transformers import TrainerCallback

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.run import Alarm, Section, Step
from rlhf_plugins.engine.cost import Counter
from rlhf_plugins.errors import RunError, nearest
from rlhf_plugins.trainers.watching.trackers import Trackers

logger = logging.getLogger(__name__)
ALARMS = "alarms.jsonl"
Row = dict[str, Any]


def write(file: Path, entries: Sequence[Row]) -> None:
    """Appends a line for each entry, all in one write, so that a reader sees whole lines; NaN and infinity as text."""
    shown = [{k: str(v) if isinstance(v, float) and v - v != 0 else v for k, v in entry.items()} for entry in entries]
    lines = [to_json(entry, inf_nan_mode="strings", fallback=_plain) + b"\n" for entry in shown]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab", buffering=0) as end:
        end.write(b"".join(lines))


def _plain(value: Any) -> Any:
    """A tensor or array as lists, anything else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


class UnknownName(KeyError):
    """There is no metric of this name; the guard of a monitor adds who asked for it."""

    def __str__(self) -> str:
        return str(self.args[0])


class _Metrics(dict[str, float]):
    """The metrics of a step by name; `get` and `in` are a dict's, and an unknown name is answered with the nearest."""

    def __missing__(self, name: str) -> NoReturn:
        raise UnknownName(f"unknown metric of a step {name!r} {nearest(str(name), map(str, self))}")


class Monitors:
    """The monitors of one training.

    Args:
        built: what watches each step, by name.
        stage: the name of the stage.
        folder: where `alarms.jsonl` is written; None writes none.
        trackers: get what the monitors log, once they follow a trainer.
    """

    def __init__(
        self,
        built: Mapping[str, Callable[[Step], Alarm | None]] | None = None,
        stage: str = "",
        folder: Path | None = None,
        trackers: Trackers | None = None,
    ) -> None:
        self._built, self.stage = dict(built or {}), stage
        self.trackers = trackers or Trackers()
        self._file = None if folder is None else folder / ALARMS
        self.counter = Counter()  # costs so far; a training replaces it by one that counts
        self.ends = False  # whether an alarm ends the training after the step that is due
        self._alarms: list[Row] = []

    @property
    def alarms(self) -> list[Row]:
        """All alarms so far, without their evidence."""
        return [{name: value for name, value in row.items() if name != "evidence"} for row in self._alarms]

    def sections(self) -> list[Section]:
        """The alarms as a section of a stage's result; none where there was no alarm."""
        text = f"Their evidence is in `{ALARMS}` of the stage's folder."
        return [Section(f"Alarms of {self.stage}", text, self.alarms)] if self._alarms else []

    def show(self, step: Step, scales: Collection[str] = ()) -> dict[str, float]:
        """Shows every monitor a step; returns the factors by which their alarms scale what the training can scale.

        Args:
            scales: `scale_lr` and `scale_kl`, where a training has them.

        Raises:
            RunError: an alarm stops the training.
            ComponentError: a monitor fails, or answers anything but an alarm or None.
        """
        values = _Metrics(step.values)
        cost = processes.cost_of_all(self.counter.cost()) if self._built else self.counter.cost()
        step = replace(step, stage=self.stage, values=values, cost=cost)
        found = {name: watch(step) for name, watch in self._built.items()}
        alarms = {name: alarm for name, alarm in found.items() if alarm is not None}
        alarms = processes.from_main(alarms) if self._built else alarms  # so that all of them do the same
        for name, alarm in alarms.items():
            self._record(name, alarm, step.step, alarm.action in {None, "stop", "end", *scales})
        for alarm in alarms.values():
            if alarm.action == "stop":
                self._stop(alarm, step.step)
        self.ends |= any(alarm.action == "end" for alarm in alarms.values())
        return {name: prod(a.factor for a in alarms.values() if a.action == name) for name in scales}

    def follow(self, trainer: Any) -> None:
        """Gives a trainer's trackers what the monitors log, and ends its training where an alarm does."""
        self.trackers.follow(trainer)
        trainer.add_callback(_Ends(self))

    def stop(self, name: str, alarm: Alarm, step: int) -> NoReturn:
        """Records an alarm of the trainer's own and ends the training. Raises RunError."""
        self._record(name, alarm, step, True)
        self._stop(alarm, step)

    def state_dict(self) -> dict[str, Any]:
        """What the monitors remember, by name."""
        return {name: watch.state_dict() for name, watch in self._built.items() if hasattr(watch, "state_dict")}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """What `state_dict` gave. Raises RunError where it is not of these monitors."""
        for name, state in states.items():
            if not hasattr(self._built.get(name), "load_state_dict"):
                raise RunError(f"the state of the monitor {name!r} fits none of: {', '.join(self._built) or 'none'}")
            self._built[name].load_state_dict(state)  # type: ignore[attr-defined]

    @property
    def raised(self) -> str:
        """All alarms so far as JSON."""
        return to_json(self._alarms, inf_nan_mode="constants", fallback=_plain).decode()

    @raised.setter
    def raised(self, alarms: str) -> None:
        self._alarms = from_json(alarms)

    def _record(self, name: str, alarm: Alarm, step: int, taken: bool) -> None:
        row = {
            "step": step,
            "stage": self.stage,
            "monitor": name,
            "message": alarm.message,
            "action": alarm.action,
            "factor": alarm.factor,
            "taken": taken,
            "false_alarm_rate": alarm.false_alarm_rate,
            "evidence": dict(alarm.evidence),
        }
        self._alarms.append(row)
        if self._file is not None:
            write(self._file, [row])
        ignored = "" if taken else f" ({alarm.action} is ignored: this training has nothing to scale)"
        logger.warning("step %d: monitor %s: %s%s", step, name, alarm.message, ignored)

    def _stop(self, alarm: Alarm, step: int) -> NoReturn:
        what = "responses are" if "responses" in alarm.evidence else "evidence is"
        where = f"; the {what} in {self._file}" if alarm.evidence and self._file is not None else ""
        raise RunError(f"step {step}: {alarm.message}{where}")


class _Ends(TrainerCallback):
    def __init__(self, monitors: Monitors) -> None:
        self._monitors = monitors

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer."""
        control.should_training_stop |= self._monitors.ends


def scale_learning_rate(trainer: Any, factor: float) -> None:
    """Multiplies the learning rate of a trainer from its next optimizer step on, whatever the schedule does to it."""
    for group in trainer.optimizer.param_groups:
        group["lr"] *= factor
        if "initial_lr" in group:
            group["initial_lr"] *= factor
    schedule = getattr(trainer.lr_scheduler, "scheduler", trainer.lr_scheduler)  # accelerate wraps it
    for rates in ("base_lrs", "_last_lr"):  # what a schedule multiplies, and what is logged
        if hasattr(schedule, rates):
            setattr(schedule, rates, [rate * factor for rate in getattr(schedule, rates)])
