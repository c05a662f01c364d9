"""A plugin of small components for tests of recipes and runs; it trains nothing.

It registers through the public hooks, so a test can also install it as a third-party package.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from rlhf_plugins import (
    Curve,
    Data,
    DataError,
    DataFormat,
    Evaluation,
    Group,
    ReportParts,
    RewardLoss,
    Run,
    RunError,
    Stage,
    StageResult,
    hookimpl,
    uses,
)


@dataclass(frozen=True)
class Plain(RewardLoss):
    """A loss without options."""


@dataclass(frozen=True)
class Scaled(RewardLoss):
    """A loss with options of several types."""

    scale: Annotated[float, Field(gt=0, description="what it is multiplied by")] = 1.0
    steps: tuple[int, ...] = (1, 2)
    inner: Any = uses("reward_loss", "plain")

    def __post_init__(self) -> None:
        if self.scale == 13:
            raise ValueError("scale must not be 13")


@dataclass(frozen=True)
class Rows(DataFormat):
    """Data of `rows` pairs; none is an error."""

    rows: Annotated[int, Field(ge=0)] = 2

    def load(self, base: object, seed: int) -> Data:
        if not self.rows:
            raise DataError("stub.jsonl: no rows")
        pair = Group("p", ("good", "bad"), ranks=(0, 1))
        return Data((pair,) * self.rows, (pair,), {"train": (Group("p"),), "test": (Group("p"),)}, {"tie": 1})


@dataclass(frozen=True)
class Decay:
    """A block of options."""

    rate: Annotated[float, Field(ge=0)] = 0.5


@dataclass(frozen=True)
class Make(Stage, reserved={"output_dir", "seed", "max_length"}):
    """Leaves a model that says what it was given; while the file `flag` exists it stops instead."""

    loss: Any = uses("reward_loss", "plain")
    decay: Decay | None = None
    flag: str = ""
    stop: Annotated[str, Field(pattern="^(error|known|interrupt|wait|exit)$")] = "error"
    name: str = "make"
    trainer: dict[str, Any] = field(default_factory=dict, metadata={"config": "trl.RewardConfig"})

    def run(self, run: Run) -> StageResult:
        (run.folder / "begun").write_text("")
        if self.flag and Path(self.flag).exists():
            self._stop()
        model = run.folder / "model"
        model.write_text(f"made from {Path(run.base.path).name} after {[r.name for r in run.finished]}")
        curves = {"loss": Curve([(1, 0.5), (2, float("nan"))]), "lr": Curve([(2, 0.1)])}
        return StageResult(base=model, metrics={"loss": run.spec(self.loss)}, curves=curves)

    def _stop(self) -> None:
        if self.stop == "known":
            raise RunError("the loss became nan")
        if self.stop == "exit":
            sys.exit(0)
        if self.stop == "interrupt":
            raise KeyboardInterrupt
        if self.stop == "wait":
            print("waiting", flush=True)
            time.sleep(600)  # killed before
        raise ZeroDivisionError("division by zero")


@dataclass(frozen=True)
class Judge(Stage):
    """Leaves an evaluation of one policy."""

    name: str = "judge"

    def run(self, run: Run) -> StageResult:
        policy = {"gold": {"mean": 1.0, "low": 0.5, "high": 1.5}, "n": 4, "length": 3, "distinct_1": 1, "distinct_2": 1}
        scores = {"base": [1.0] * 4, "first": [1.0] * 4}
        return StageResult(
            evaluation=Evaluation("gold reward", "base", ["p"] * 4, scores),
            report=ReportParts(policies={"base": policy, "first": policy}, notes=["a stub"]),
        )


@dataclass(frozen=True)
class Talk(Stage):
    """Logs two steps, as a training does."""

    name: str = "talk"

    def run(self, run: Run) -> StageResult:
        points = [(1, 2.0), (2, 1.0)]
        for step, loss in points:
            run.log(step, {"loss": loss})
        return StageResult(curves={"loss": Curve(points)})


@hookimpl
def register_reward_loss() -> dict[str, type]:
    return {"plain": Plain, "scaled": Scaled}


@hookimpl
def register_data_format() -> dict[str, type]:
    return {"rows": Rows}


@hookimpl
def register_stage() -> dict[str, type]:
    return {"make": Make, "judge": Judge, "talk": Talk}
