"""What trackers such as W&B need of a run with several stages: a name and an end for each, and what monitors log."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any
from weakref import ref

from transformers import TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks

from rlhf_plugins.contract.run import Run


def run_name(folder: Path) -> str:
    """What a tracker calls the training of a stage: `quickstart/02-dpo`."""
    return "/".join(folder.resolve().parts[-2:])


class TrackerEnd(TrainerCallback):
    """Ends the run of a tracker that transformers leaves open, so that the next stage starts one of its own.

    It is added after transformers' own callbacks, which log the last numbers before.
    """

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer."""
        wandb = sys.modules.get("wandb")
        if "wandb" in (args.report_to or ()) and getattr(wandb, "run", None) is not None:
            wandb.finish()  # type: ignore[union-attr]


class Trackers:
    """The trackers of a trainer, which get numbers that others log, from the moment that the trainer is there."""

    def __init__(self) -> None:
        self._trainer: Any = lambda: None

    def follow(self, trainer: Any) -> None:
        """Gives what is logged from now on to the trackers of this trainer, which may go before."""
        self._trainer = ref(trainer)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Gives them the numbers of a step."""
        if (trainer := self._trainer()) is None:
            return
        state = copy(trainer.state)
        state.global_step = step
        trackers = tuple(get_reporting_integration_callbacks(trainer.args.report_to))
        for each in trainer.callback_handler.callbacks:
            if isinstance(each, trackers):
                each.on_log(trainer.args, state, trainer.control, logs=dict(values), model=trainer.model)


class Tracked:
    """A run whose numbers trackers get too."""

    def __init__(self, run: Run, trackers: Trackers) -> None:
        self._run, self._trackers = run, trackers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Run`."""
        self._run.log(step, values)
        self._trackers.log(step, values)
