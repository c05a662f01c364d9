"""Monitors that halve the KL coefficient and end a training; `python guest_watch.py RUN` reads the run beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from rlhf_plugins import Alarm, Monitor, Run, Step, hookimpl, open_run

Watch = Callable[[Step], Alarm | None]


@dataclass(frozen=True)
class LooseKL(Monitor):
    """Halves the KL coefficient where the policy is closer to the reference than a limit."""

    limit: Annotated[float, Field(description="nats per token")] = 0.001

    def build(self, run: Run) -> Watch:
        def watch(step: Step) -> Alarm | None:
            kl = step.values["kl_per_token"]
            if kl >= self.limit:
                return None
            return Alarm(f"KL of {kl:.4f} nats per token", {"kl_per_token": kl}, action="scale_kl", factor=0.5)

        return watch


@dataclass(frozen=True)
class LastRollout(Monitor):
    """Ends the training after a number of rollouts."""

    rollouts: Annotated[int, Field(ge=1, description="rollouts that are sampled")] = 8

    def build(self, run: Run) -> Watch:
        seen = 0

        def watch(step: Step) -> Alarm | None:
            nonlocal seen
            seen += 1
            if seen < self.rollouts:
                return None
            return Alarm(f"{seen} rollouts", {"rollouts": seen}, action="stop")

        return watch


@hookimpl
def register_monitor() -> dict[str, type]:
    return {"loose_kl": LooseKL, "last_rollout": LastRollout}


def read(folder: str) -> None:
    """Prints every row of a run as JSON, with the status of the run when it was read."""
    record = open_run(folder, wait=60)
    for kind, row in record.tail(poll=0.05, patience=60):
        print(json.dumps({"kind": kind, "status": record.status, **row}), flush=True)


if __name__ == "__main__":
    read(sys.argv[1])
