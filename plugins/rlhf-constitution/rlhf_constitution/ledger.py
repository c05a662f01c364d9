"""What may be asked of an assistant, and what was: a call is counted, and written down, before it is made."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Annotated

from pydantic import Field

from rlhf_constitution.outcome import Failed

OVER = Failed("the budget is used up")


@dataclass(frozen=True)
class Budget:
    """What may be asked; a call that could exceed it is not made, and counts as failed."""

    calls: Annotated[Annotated[int, Field(ge=0)] | None, Field(description="calls, each further attempt too")] = None
    tokens: Annotated[Annotated[int, Field(ge=0)] | None, Field(description="of questions and answers")] = None
    seconds: Annotated[Annotated[float, Field(ge=0)] | None, Field(description="since the first question")] = None


@dataclass
class Ledger:
    """What was reserved so far, by any thread. The tokens of a text are at most its bytes, which are reserved."""

    budget: Budget
    clock: Callable[[], float] = time.monotonic
    file: Path | None = None  # where reservations are kept over a kill; None keeps nothing
    calls: int = 0
    tokens: int = 0
    began: float | None = None
    lock: Lock = field(default_factory=Lock, repr=False)

    def reserve(self, tokens: int) -> bool:
        """Whether one more call may use so many tokens; if so, they are counted."""
        with self.lock:
            spent, limits = self.spent(), self.budget
            if limits.calls is not None and self.calls + 1 > limits.calls:
                return False
            if limits.tokens is not None and self.tokens + tokens > limits.tokens:
                return False
            if limits.seconds is not None and spent >= limits.seconds:
                return False
            self.calls, self.tokens = self.calls + 1, self.tokens + tokens
            if self.file is not None:
                with self.file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"tokens": tokens, "second": spent}) + "\n")
            return True

    def count(self, tokens: int, second: float) -> None:
        """Counts a call that was reserved before a kill, at this second."""
        self.calls, self.tokens = self.calls + 1, self.tokens + tokens
        self.began = min(math.inf if self.began is None else self.began, self.clock() - second)

    def spent(self) -> float:
        """Seconds since the first question."""
        now = self.clock()
        self.began = now if self.began is None else self.began
        return now - self.began

    def left(self) -> float:
        """Seconds that a call may take now; infinite without a limit."""
        return math.inf if self.budget.seconds is None else max(0.0, self.budget.seconds - self.spent())
