"""The examples that a constitution gives of its own principles, tried."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf_constitution.constitution import Constitution
from rlhf_constitution.outcome import Ok
from rlhf_constitution.principle import Principle, bound
from rlhf_plugins import Run


def count(constitution: Constitution) -> int:
    """How many examples there are of principles that a program decides."""
    return sum(len(one.passes) + len(one.fails) for one in constitution.principles if not one.builds)


def wrong(constitution: Constitution, run: Run | None = None) -> list[str]:
    """The examples that do not come out as they should; of principles that need a run only where there is one."""
    tried = [one for one in constitution.principles if run is not None or not one.builds]
    return [fault for principle in tried for fault in _wrong(principle, run)]


def _wrong(principle: Principle, run: Run | None) -> Iterator[str]:
    judge = bound(principle, run)
    for examples, kept, word in ((principle.passes, True, "keep"), (principle.fails, False, "break")):
        outcomes = judge([prompt for prompt, _ in examples], [response for _, response in examples])
        for (_, response), outcome in zip(examples, outcomes, strict=True):
            if not isinstance(outcome, Ok):
                yield f"{principle.name}: {response!r} should {word} it, and the principle gave {outcome}"
            elif (outcome.value >= principle.threshold) != kept:
                yield f"{principle.name}: {response!r} should {word} it, and its value is {outcome.value:.2f}"
