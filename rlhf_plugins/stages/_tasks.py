"""Measures policies on the tasks of an evaluation, and shows shares with intervals. It is no stage itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_plugins.contract.run import Section
from rlhf_plugins.report.words import wide

if TYPE_CHECKING:
    from rlhf_plugins.contract.handles import Policy
    from rlhf_plugins.contract.run import Run
    from rlhf_plugins.contract.run_kinds import Task
    from rlhf_plugins.evaluate.statistics import Interval


class Tasks:
    """The tasks of one evaluation, and each policy's number for each row of them."""

    def __init__(self, tasks: Sequence[Task], run: Run) -> None:
        self._better = {task.name: task.better for task in tasks}
        self._built = {task.name: task.build(run) for task in tasks}
        self._found: dict[str, dict[str, np.ndarray]] = {}  # policy -> task -> (rows,)

    def measure(self, name: str, policy: Policy) -> None:
        """Measures a policy."""
        if self._built:
            self._found[name] = {task: np.array(share(policy)) for task, share in self._built.items()}

    def metrics(self) -> dict[str, Any]:
        """By task and policy the share with its interval, and the number of rows; nothing without a task."""
        found = {
            task: {policy: {**_of_shares(of[task])._asdict(), "n": len(of[task])} for policy, of in self._found.items()}
            for task in self._built
        }
        return {"tasks": found} if found else {}

    def sections(self, reference: str) -> list[Section]:
        """A table of all policies."""
        if not self._built:
            return []
        lower = [name for name, better in self._better.items() if better == "lower"]
        text = f"Shares of rows with 95% intervals; the difference from {reference} is paired by row."
        few = {task: wide(len(rows)) for rows_of in self._found.values() for task, rows in rows_of.items()}
        text += "".join(f" {task}: {words}." for task, words in few.items() if words)
        text += f" Of {', '.join(lower)} less is better: it is per 100 answers." if lower else ""
        return [Section("Tasks", text, [dict(self._row(policy, reference)) for policy in self._found])]

    def _row(self, policy: str, reference: str) -> Iterator[tuple[str, str]]:
        yield "policy", policy
        for task, own in self._found[policy].items():
            yield task, _percent(_of_shares(own))
            if policy != reference:
                yield f"{task}: difference", _percent(_interval(own - self._found[reference][task]), "+")


def _of_shares(values: np.ndarray) -> Interval:
    from rlhf_plugins.evaluate.statistics import share_interval

    return share_interval(values)


def _interval(values: np.ndarray) -> Interval:
    from rlhf_plugins.evaluate.statistics import mean_interval

    return mean_interval(values)


def _percent(found: Interval, sign: str = "") -> str:
    mean, low, high = (format(100 * value, f"{sign}.1f") for value in found)
    return f"{mean}% [{low}, {high}]"
