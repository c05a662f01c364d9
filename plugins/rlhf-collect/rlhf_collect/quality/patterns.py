"""Answers that follow a pattern and not the texts: one side over and over, too fast to read, always the longer one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FIRST, RUN_FIRST, RUN = 50, 14, 20  # a run among the first answers, and a later one, that is not by chance
WORDS_PER_SECOND = 15.0  # nobody reads faster
FAST, OF = 15, 20  # so many of the last ones too fast
LONGER, LEAST = 0.95, 40  # share of choices for the longer answer, of at least so many


@dataclass(frozen=True)
class Done:
    """What is known of one answer without its text."""

    side: int  # 1 left, -1 right, 0 neither
    seconds: float
    words: int  # how many the prompt and the answers have together
    longer: int  # the side whose answer is longer, 0 where none is


def one_sided(done: Sequence[Done], before: int = 0) -> str:
    """Sides are drawn at random: 14 in a row among 50 answers have a chance of 0.2%, 20 in a row of 1000 one of 0.1%.

    Args:
        done: the last answers.
        before: how many came before them.
    """
    run, last = 0, 0
    for number, one in enumerate(done, before):
        run = run + 1 if one.side == last and one.side else int(bool(one.side))
        last = one.side
        if run >= (RUN_FIRST if number < FIRST else RUN):
            return f"{run} times in a row the {'left' if last > 0 else 'right'} side"
    return ""


def too_fast(done: Sequence[Done]) -> str:
    """Most of the last answers came faster than anybody reads."""
    last = done[-OF:]
    fast = sum(one.seconds * WORDS_PER_SECOND < one.words for one in last)
    return f"{fast} of the last {len(last)} answers came faster than the texts can be read" if fast >= FAST else ""


def by_length(done: Sequence[Done]) -> str:
    """Nearly always the longer answer; careful people prefer it often, but not that often."""
    chosen = [one for one in done if one.side and one.longer]
    longer = sum(one.side == one.longer for one in chosen)
    if len(chosen) >= LEAST and longer >= LONGER * len(chosen):
        return f"{longer} of {len(chosen)} choices are the longer answer"
    return ""
