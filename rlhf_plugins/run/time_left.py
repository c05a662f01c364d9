"""About how long the rest of a run takes, estimated from the stages that it has finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_plugins.contract.run import StageResult
    from rlhf_plugins.contract.workload import Course
    from rlhf_plugins.engine.progress import Later


def left(courses: Mapping[str, Course | None], finished: Sequence[StageResult]) -> float | None:
    """Seconds, as if each sequence took as long as those of the finished stages; a rough number.

    None before a stage has finished, and where the length of one that is to come is unknown.
    """
    return after(courses, finished)(0.0, 0.0)


def after(courses: Mapping[str, Course | None], finished: Sequence[StageResult], name: str | None = None) -> Later:
    """How long the stages after the one of this name take, by the finished stages and by what it did so far."""
    known = {each: course.sequences for each, course in courses.items() if course and course.sequences}
    done = {result.name: result.cost.seconds for result in finished if result.name in known}
    ahead = [known.get(each) for each in courses if each != name and each not in {one.name for one in finished}]

    def seconds(share: float, taken: float) -> float | None:
        sequences = sum(known[each] for each in done) + (share * known[name] if name in known else 0.0)
        spent = sum(done.values()) + (taken if name in known else 0.0)
        return None if None in ahead or not sequences or not spent else sum(filter(None, ahead)) * spent / sequences

    return seconds
