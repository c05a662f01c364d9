"""Parts of the trainings of trained_alarms.py: a monitor that writes all it sees, data with easy prompts first.

A plugin file, which the recipes of that script name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rlhf_watch.alarms import signals
from rlhf_watch.alarms.departures import Away
from rlhf_watch.alarms.drifts import REFUSALS

from rlhf_plugins import Alarm, Base, Data, DataFormat, Group, Monitor, Run, Step, hookimpl, uses

FILE = "rollouts.jsonl"


@dataclass(frozen=True)
class Recorded(Monitor, reads_rollouts=True):
    """Writes the numbers that monitors read of each rollout, and the reward and true worth of every response."""

    def build(self, run: Run) -> Callable[[Step], Alarm | None]:
        """One line a rollout, in the stage's folder."""
        gold, away = run.data.gold, Away()

        def write(step: Step) -> None:
            features = step.prediction.features if step.prediction is not None else None
            assert gold is not None
            assert step.samples is not None
            assert features is not None
            pairs = zip(step.samples.prompts, step.samples.responses, strict=True)
            row: dict[str, Any] = {
                "step": step.step,
                "rewards": list(map(float, step.responses["reward"])),
                "worths": [gold(str(prompt), response)["total"] for prompt, response in pairs],
                "length_drift": signals.length(step),
                "repetition": signals.repetition(step),
                "entropy_collapse": signals.entropy(step),
                "reward_variance_collapse": signals.reward_deviation(step),
                "disagreement": signals.disagreement(step),
                "feature_drift": away.distance(features.double().cpu().numpy()),
                "boilerplate": signals.boilerplate(step, REFUSALS),
            }
            with (run.folder / FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

        return write


@dataclass(frozen=True)
class EasyFirst(DataFormat):
    """Rows whose prompts come in the order of their responses' mean true worth, the best first."""

    rows: DataFormat = uses("data_format", "sandbox")

    def load(self, base: Base, seed: int) -> Data:
        """The rows, with the training prompts in order."""
        data = self.rows.load(base, seed)
        worths: dict[str, list[float]] = {}
        for group in data.train:
            worths.setdefault(str(group.prompt), []).extend(group.gold or ())

        def easy(group: Group) -> float:
            known = worths.get(str(group.prompt)) or [0.0]
            return -sum(known) / len(known)

        return replace(data, prompts={**data.prompts, "train": tuple(sorted(data.prompts["train"], key=easy))})

    def known_gold(self) -> bool:
        """As the rows."""
        return self.rows.known_gold()


@hookimpl
def register_monitor() -> dict[str, type]:
    """The monitor of this file."""
    return {"recorded": Recorded}


@hookimpl
def register_data_format() -> dict[str, type]:
    """The data of this file."""
    return {"easy_first": EasyFirst}
