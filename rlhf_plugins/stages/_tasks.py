"""Measures policies on the tasks of an evaluation, and shows shares with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_plugins.contract.run import Section
from rlhf_plugins.report.words import TASKS, wide

if TYPE_CHECKING:
    from rlhf_plugins.arithmetic.intervals import Interval
    from rlhf_plugins.contract.handles import Policy
    from rlhf_plugins.contract.run import Run
    from rlhf_plugins.contract.run_kinds import Task


class Tasks:
    """The tasks of one evaluation, and each policy's number for each row of them."""

    def __init__(self, tasks: Sequence[Task], run: Run) -> None:
        self._specs = {task.name: run.spec(task) for task in tasks}
        self._better = {task.name: task.better for task in tasks}
        self._built = {task.name: task.build(run) for task in tasks}
        self._found: dict[str, dict[str, np.ndarray]] = {}  # policy -> task -> (rows,)

    def measure(self, name: str, policy: Policy) -> None:
        """Measures a policy."""
        if self._built:
            self._found[name] = {task: np.array(share(policy)) for task, share in self._built.items()}

    def metrics(self) -> dict[str, Any]:
        """For each task and policy the share with its interval, and the number of rows."""
        found = {
            task: {policy: {**_interval(of[task])._asdict(), "n": len(of[task])} for policy, of in self._found.items()}
            for task in self._built
        }
        return {"tasks": found} if found else {}

    def sections(self, reference: str) -> list[Section]:
        """A table with a row for each policy on each task."""
        if not self._built:
            return []
        lower = [name for name, better in self._better.items() if better == "lower"]
        text = f"Shares of rows with 95% intervals; the difference from {reference} is paired by row."
        text += "".join(self._few(task, len(rows)) for task, rows in self._found[reference].items())
        text += f" Of {', '.join(lower)} less is better: it is per 100 answers." if lower else ""
        rows = [dict(self._row(task, policy, reference)) for task in self._built for policy in self._found]
        return [Section(TASKS, text, rows)]

    def _few(self, task: str, n: int) -> str:
        """A sentence where there are fewer rows than asked for, with the reason, or where the interval is wide."""
        spec = self._specs[task]
        asked = spec.get("rows")
        whose = "the run holds out" if spec.get("data") is None else "its data has"
        less = (
            f"{n} of {asked} rows, since {whose} no more that leave room for an answer" if asked and n < asked else ""
        )
        found = "; ".join(filter(None, (less, wide(n))))
        return f" {task}: {found}." if found else ""

    def _row(self, task: str, policy: str, reference: str) -> Iterator[tuple[str, str | int]]:
        own, base = self._found[policy][task], self._found[reference][task]
        yield from (("task", task), ("policy", policy), ("rows", len(own)), ("share", _percent(_interval(own))))
        if policy != reference:
            yield f"difference from {reference}", _percent(_interval(own - base, least=-1.0), "+")


def _interval(values: np.ndarray, least: float = 0.0) -> Interval:
    from rlhf_plugins.arithmetic.intervals import share_interval

    return share_interval(values, least)


def _percent(found: Interval, sign: str = "") -> str:
    mean, low, high = (format(100 * value, f"{sign}.1f") for value in found)
    return f"{mean}% [{low}, {high}]"
