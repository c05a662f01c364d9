"""Asks a run to end: by a signal, or by a plugin. A stage that calls `Stop.stopped` ends by itself."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

ENDING = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows lacks the last
BY_DEFAULT = (signal.SIG_DFL, signal.default_int_handler)


class Ended(KeyboardInterrupt):
    """A signal ended the run; `number` is the signal's."""

    def __init__(self, message: str = "", number: int = signal.SIGINT) -> None:
        self.number = number
        super().__init__(message)


@dataclass
class Stop:
    """Whether a run was asked to end.

    The first signal asks a stage that has called `stopped` to end, the second interrupts it. A stage that never called
    it is interrupted at once. While the report is written, the first is ignored.
    """

    asked: bool = False
    polled: bool = False  # whether the stage that runs has called `stopped`
    reporting: bool = False
    number: int = signal.SIGINT  # number of the last signal

    def begin(self) -> None:
        """Another stage begins."""
        self.polled = False

    def stopped(self) -> bool:
        """Whether the stage should end; a stage that calls this is trusted to do so."""
        self.polled = True
        return self.asked

    @property
    def why(self) -> str:
        """Who ended the run."""
        return "interrupted by the user" if self.number == signal.SIGINT else f"ended by {self._name}"

    @property
    def _name(self) -> str:
        return signal.Signals(self.number).name

    @contextmanager
    def listening(self, say: Callable[[str], None]) -> Iterator[None]:
        """For the block, signals that end a process come here; in the main thread, and where nobody else has them."""
        own = os.getpid()

        def received(number: int, frame: FrameType | None) -> None:
            if os.getpid() != own:  # a child that a data loader forked
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
                return
            self.number = number
            if self.reporting:
                self.reporting = False
                say("writing the report; once more leaves it out")
            elif self.asked or not self.polled:
                self.asked = True  # Python drops what is raised in a finalizer; the run then ends at the next look
                raise Ended(number=number)
            else:
                self.asked = True
                again = "interrupt again" if number == signal.SIGINT else f"send {self._name} again"
                say(f"stopping after this step; {again} to stop now")

        with handling(received):
            yield


@contextmanager
def handling(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """For the block, the handler of the signals that end a process and that nobody handles or ignores."""
    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: old for number in numbers if (old := signal.getsignal(number)) in BY_DEFAULT}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
