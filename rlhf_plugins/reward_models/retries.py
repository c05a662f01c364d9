"""Retries a reward that is temporarily unavailable."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rlhf_plugins.errors import RewardUnavailable, RunError

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Retries:
    """How often, and for how long, an unavailable reward is asked again.

    A failure never becomes a number: when the budget is spent, the stage ends.

    Args:
        attempts: calls in all.
        seconds: the seconds of waiting in all.
        first: seconds before the second call where the reward does not say; they double with each further one.
        sleep: waits.
    """

    attempts: int = 8
    seconds: float = 600.0
    first: float = 1.0
    sleep: Callable[[float], None] = time.sleep

    def __call__(self, ask: Callable[[], Answer]) -> Answer:
        """What `ask` returns. Raises RunError when it is unavailable until the budget is spent."""
        waited, pause = 0.0, self.first
        for attempt in range(1, self.attempts + 1):
            try:
                return ask()
            except RewardUnavailable as error:
                wait = pause if error.retry_after is None else max(0.0, error.retry_after)
                if attempt == self.attempts or waited + wait > self.seconds:
                    tried = f"{attempt} of {self.attempts} attempts, {waited:.0f} s of waiting"
                    raise RunError(f"the reward stayed unavailable after {tried}: {error}") from error
                logger.warning("%s; asking again in %.0f s", error, wait)
            self.sleep(wait)
            waited, pause = waited + wait, pause * 2
        raise AssertionError  # the last attempt returns or raises
