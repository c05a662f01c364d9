"""Ends a training at the step at which its budget is spent."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from transformers import TrainerCallback

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.run import Budget
from rlhf_plugins.engine.cost import Counter, counting

logger = logging.getLogger(__name__)
UNITS = {"flops": "FLOPs", "seconds": "seconds"}


class Spending(TrainerCallback):
    """Compares what a training cost so far with its budget, after each step.

    Args:
        budget: None ends nothing.
        counter: the counter of the training.
    """

    def __init__(self, budget: Budget | None, counter: Counter) -> None:
        self.ended: dict[str, Any] = {}  # which limit was reached, and at which step; empty while none is
        self._limits = {} if budget is None else {k: v for k, v in vars(budget).items() if v is not None}
        self._counter, self._message = counter, ""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer. FLOPs are those of all processes, seconds the main one's."""
        spent = processes.spent(self._counter, self._limits) if self._limits else {}
        for name, limit in self._limits.items():
            if spent[name] >= limit and not self.ended:
                self.ended = {"limit": name, "step": state.global_step, "of": state.max_steps}
                where = f"step {state.global_step} of {state.max_steps}"
                self._message = f"The budget of {limit:.4g} {UNITS[name]} ended the training at {where}."
                logger.warning("%s", self._message)
                control.should_training_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Its state, and what each process spent so far; all of them must call it."""
        return {"ended": self.ended, "message": self._message, "spent": processes.gathered(self._counter.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        self.ended, self._message = state["ended"], state["message"]
        self._counter.load_state_dict(processes.goes_on_from(state["spent"]))

    @property
    def metrics(self) -> dict[str, Any]:
        """For a stage's result."""
        return {"budget": self.ended} if self.ended else {}

    @property
    def notes(self) -> tuple[str, ...]:
        """For a stage's part of the report."""
        return (self._message,) if self.ended else ()


@contextmanager
def spending(trainer: Any, budget: Budget | None) -> Iterator[Spending]:
    """For the block, the training of a trainer within a budget; the schedule of its learning rate stays as planned."""
    with counting() as counter:
        callback = Spending(budget, counter)
        trainer.add_callback(callback)
        try:
            yield callback
        finally:
            trainer.remove_callback(callback)


def shared_budget(budget: Budget | None, parts: int) -> Budget | None:
    """The budget of each of several trainings that have one together."""
    if budget is None:
        return None
    return replace(budget, **{name: limit / parts for name, limit in vars(budget).items() if limit is not None})
