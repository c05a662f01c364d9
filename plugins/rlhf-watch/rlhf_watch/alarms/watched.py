"""What all alarms share: they log their statistic, alarm once where it exceeds a calibrated threshold, and say why."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Protocol

from pydantic import Field

from rlhf_plugins import Alarm, Monitor, OnDisk, Run, RunError, Step
from rlhf_watch.alarms.limits import SANDBOX, Limit, read_limit, read_limits, shipped_limit
from rlhf_watch.notices.address import VARIABLE, Address, Notice
from rlhf_watch.notices.sending import send_beside

logger = logging.getLogger(__name__)
CURVE = "watch/"  # begins the names of the curves that hold statistics
PLACES = ("thresholds", "notify", "action", "factor", "audit")  # options that do not change the statistic


class Statistic(Protocol):
    """What grows while a training departs from its start."""

    @property
    def value(self) -> float: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Watched(Monitor, reads_rollouts=True):
    """A monitor whose statistic is a curve `watch/NAME`. Without thresholds it measures, and never alarms.

    Thresholds for runs of the sandbox's policy are shipped, and taken there where none are given.
    """

    thresholds: Annotated[
        str,
        OnDisk(words=(SANDBOX,)),
        Field(
            description="a file that `rlhf watch calibrate` wrote, or `sandbox`; empty: the sandbox's, where they fit"
        ),
    ] = ""
    notify: Annotated[
        str, Field(description="environment variable with the address that alarms are sent to; empty: nowhere")
    ] = ""

    def __post_init__(self) -> None:
        if self.notify and not VARIABLE.fullmatch(self.notify):
            raise ValueError("notify: name an environment variable that holds the address: recipes are copied")

    def missing(self) -> dict[str, str]:
        """A file that is not there, or holds no thresholds; a variable that is not set, or holds no address."""
        found = {}
        for name, read in (("thresholds", read_limits), ("notify", Address.read)):
            try:
                if (value := getattr(self, name)) not in ("", SANDBOX):
                    read(value)
            except RunError as error:
                found[name] = str(error)
        return found

    def limit(self, name: str, run: Run) -> Limit | None:
        """Its threshold; None where none are given, and those that are shipped are of other runs.

        Raises:
            RunError: the file has none for these options, or `sandbox` is asked for in another run.
        """
        options = statistic_options(self.record())
        if self.thresholds not in ("", SANDBOX):
            return read_limit(self.thresholds, name, options)
        try:
            return shipped_limit(name, options, run)
        except RunError as error:
            if self.thresholds:
                raise
            logger.warning("%s only measures, and never alarms: %s", name, error)
            return None

    def record(self) -> dict[str, Any]:
        """Its options as JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}


def statistic_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that change the statistic, and so its threshold."""
    return {name: value for name, value in options.items() if name not in (*PLACES, "use")}


class Watching:
    """One monitor of one training.

    Args:
        monitor: its options.
        run: that it watches.
        statistic: it keeps.
        add: takes in a step; False where the step has nothing for it.
        worst: the places of the responses at fault, the worst first.
        says: what a value of the statistic means.

    Raises:
        RunError: the thresholds are of other options, or an alarm is to be sent and there can be none, or nowhere.
    """

    def __init__(
        self,
        monitor: Watched,
        run: Run,
        statistic: Statistic,
        add: Callable[[Step], bool],
        worst: Callable[[Step], Iterable[int]],
        says: str,
    ) -> None:
        self._name: str = run.spec(monitor)["use"]
        self._limit = monitor.limit(self._name, run)
        if monitor.notify and self._limit is None:
            raise RunError(f"notify: {self._name} has no thresholds, so that it never alarms")
        self._log, self._statistic, self._add, self._worst, self._says = run.log, statistic, add, worst, says
        self._action = getattr(monitor, "action", None), getattr(monitor, "factor", 1.0)
        main = os.environ.get("RANK", "0") == "0"  # of several processes, which all see the alarm
        self._address = Address.read(monitor.notify) if monitor.notify and main else None
        self._run = run
        self._since: int | None = None
        self._seen, self._alarmed = 0, False

    def __call__(self, step: Step) -> Alarm | None:
        """The first time that the threshold is exceeded, an alarm."""
        if not self._add(step):
            return None
        self._seen += 1
        value = self._statistic.value
        self._log(step.step, {CURVE + self._name: value})
        if not value:
            self._since = None
        elif self._since is None:
            self._since = step.step
        if self._limit is None or self._alarmed or value <= self._limit.threshold:
            return None
        self._alarmed = True
        alarm = self._alarm(step, value, self._limit)
        if self._address is not None:
            send_beside(self._address, self._notice(step, alarm))
        return alarm

    def _notice(self, step: Step, alarm: Alarm) -> Notice:
        where = f"{self._run.folder.parent.name}/{self._run.folder.name}"
        return Notice(where, step.stage, step.step, self._name, alarm.message, alarm.action, alarm.false_alarm_rate)

    def _alarm(self, step: Step, value: float, limit: Limit) -> Alarm:
        known = self._seen <= limit.rollouts
        those = f"of {limit.fitted['recipe']} " if limit.fitted else ""
        rate = (
            f"of clean runs {those}{limit.rate:.1%} at most have an alarm of any monitor ({limit.runs} runs)"
            if known
            else f"the thresholds are of runs with {limit.rollouts} rollouts, and nothing is known of longer ones"
        )
        message = (
            f"since step {self._since}, {self._says}: {value:.3g}, where {limit.threshold:.3g} is the limit; {rate}"
        )
        evidence = {
            "statistic": value,
            "since": self._since,
            **asdict(limit),
            "responses": step.shown(self._worst(step)),
        }
        action, factor = self._action if known else (None, 1.0)
        return Alarm(message, evidence, limit.rate if known else None, action, factor)

    def state_dict(self) -> dict[str, Any]:
        """Everything that it remembers."""
        own = {"since": self._since, "seen": self._seen, "alarmed": self._alarmed}
        return {**own, "statistic": self._statistic.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        self._since, self._seen, self._alarmed = state["since"], state["seen"], state["alarmed"]
        self._statistic.load_state_dict(state["statistic"])
