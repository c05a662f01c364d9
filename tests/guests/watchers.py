"""A guest's monitors: one halves the KL coefficient where the KL is low, one stops the run. It uses the API alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_plugins import Alarm, Monitor, Run, Step, hookimpl


@dataclass(frozen=True)
class Loosen(Monitor):
    """Halves the KL coefficient after every rollout whose KL is below `floor` nats per response."""

    floor: float = 1.0

    def build(self, run: Run) -> Callable[[Step], Alarm | None]:
        def watch(step: Step) -> Alarm | None:
            kl = step.values.get("kl", self.floor)
            return Alarm(f"the KL is {kl:.3g}", {"kl": kl}, action="scale_kl", factor=0.5) if kl < self.floor else None

        return watch


@dataclass(frozen=True)
class StopAt(Monitor):
    """Stops the run at a step."""

    step: int = 4

    def build(self, run: Run) -> Callable[[Step], Alarm | None]:
        return lambda step: Alarm("seen enough", action="stop") if step.step >= self.step else None


@hookimpl
def register_monitor() -> dict[str, type]:
    return {"loosen": Loosen, "stop_at": StopAt}


@hookimpl
def samples_logged(folder: Path, stage: str, step: int, rows: list[dict[str, Any]]) -> None:
    with (folder / "heard.jsonl").open("a") as heard:
        heard.write(json.dumps([stage, step, [row["response"] for row in rows]]) + "\n")
