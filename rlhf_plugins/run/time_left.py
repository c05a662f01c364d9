"""About how long the rest of a run takes, by the stages that it has finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_plugins.contract.run import StageResult
    from rlhf_plugins.contract.workload import Course
    from rlhf_plugins.engine.progress import Later


def after(courses: Mapping[str, Course | None], finished: Sequence[StageResult], name: str) -> Later:
    """How long the stages after the one of this name take, by the finished stages and by what it did so far."""
    known = {name: course.sequences for name, course in courses.items() if course and course.sequences}
    done = {result.name: result.cost.seconds for result in finished if result.name in known}
    ahead = [known.get(one) for one in courses if one != name and one not in {result.name for result in finished}]

    def seconds(share: float, taken: float) -> float | None:
        counted = sum(known[one] for one in done) + share * known.get(name, 0)
        if None in ahead or not counted:
            return None
        return sum(filter(None, ahead)) * (sum(done.values()) + (taken if name in known else 0.0)) / counted

    return seconds


def left(courses: Mapping[str, Course | None], finished: Sequence[StageResult]) -> float | None:
    """Seconds, as if each sequence took as long as those of the finished stages; a rough number.

    None before a stage has finished, and where the length of one that is to come is unknown.
    """
    done = {result.name: result.cost.seconds for result in finished}
    known = {name: course.sequences for name, course in courses.items() if course and course.sequences}
    ahead = [known.get(name) for name in courses if name not in done]
    seconds = sum(taken for name, taken in done.items() if name in known)
    if None in ahead or not seconds:
        return None
    return sum(filter(None, ahead)) * seconds / sum(known[name] for name in done if name in known)
