"""Asks a run to end: by an interrupt of the user, or by a plugin. A stage that calls `Stop.stopped` ends by itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """Whether a run was asked to end.

    The first interrupt asks a stage that has called `stopped` to end, the second interrupts it. A stage that never
    called it is interrupted at once.
    """

    asked: bool = False
    polled: bool = False  # whether the stage that runs has called `stopped`

    def begin(self) -> None:
        """Another stage begins."""
        self.polled = False

    def stopped(self) -> bool:
        """Whether the stage should end; a stage that calls this is trusted to do so."""
        self.polled = True
        return self.asked

    @contextmanager
    def listening(self, say: Callable[[str], None]) -> Iterator[None]:
        """For the block, interrupts of the user come here; in the main thread, and where they are not ignored."""
        own = threading.current_thread() is threading.main_thread()
        if not own or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return

        def interrupted(number: int, frame: FrameType | None) -> None:
            if self.asked or not self.polled:
                raise KeyboardInterrupt
            self.asked = True
            say("stopping after this step; interrupt again to stop now")

        signal.signal(signal.SIGINT, interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
