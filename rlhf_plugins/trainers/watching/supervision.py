"""Adds monitors, regularizers and a clip by value to a built Trainer of any kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.run import Alarm, Run, Step
from rlhf_plugins.contract.run_kinds import Monitor
from rlhf_plugins.engine.cost import counting
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.column_needs import refuse_useless_monitors
from rlhf_plugins.trainers.arguments import NOT_KEPT, not_finite
from rlhf_plugins.trainers.steps.micro_batches import stepping, steps_in_backward
from rlhf_plugins.trainers.watching.held_out import stop_early
from rlhf_plugins.trainers.watching.monitoring import Monitors, scale_learning_rate
from rlhf_plugins.trainers.watching.trackers import Tracked, Trackers

Terms = Mapping[str, Callable[[], Tensor]]


def built_monitors(stage: Any, run: Run) -> Monitors:
    """The monitors of a stage, under the names that a recipe gives them. Raises RunError for one that is of no use."""
    refuse_useless_monitors(stage, lambda part: run.spec(part)["use"])
    return monitors_of(stage.monitors, stage.name, run)


def monitors_of(monitors: Sequence[Monitor], stage: str, run: Run) -> Monitors:
    """Built for a run; their alarms are written in its folder, and trackers get what they log."""
    trackers = Trackers()
    tracked: Any = Tracked(run, trackers)
    built = {name: each.build(tracked) for name, each in _by_name(monitors, run).items()}
    return Monitors(built, stage, Path(run.folder) if processes.is_main() else None, trackers)


def supervise(trainer: Any, stage: Any, run: Run) -> Monitors:
    """Adds what a stage says of steps and gradients to a trainer that knows none of it. Returns the monitors."""
    monitors = built_monitors(stage, run)
    regularize(trainer, stage, run)
    clip_by_value(trainer, stage.max_grad_value)
    stop_early(trainer, stage.early_stopping_patience, stage.early_stopping_threshold)
    watch(trainer, monitors)
    trainer.add_callback(_Moves())
    return monitors


class _Moves(TrainerCallback):
    """Fails a training in which no gradient ever reached the weights: it would end as it began, without a word."""

    def __init__(self) -> None:
        self._norms: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Called by the trainer."""
        self._norms += [float(logs["grad_norm"])] if "grad_norm" in (logs or {}) else []

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Called by the trainer. Raises RunError."""
        if len(self._norms) > 1 and not any(self._norms):
            raise RunError(
                "the gradient was 0 at every step, so nothing was learned: no label prefers anything, all rewards are "
                "equal, or the base's weights are damaged"
            )


def watch(trainer: Any, monitors: Monitors) -> None:
    """Has a trainer show its monitors every optimizer step."""
    trainer.__class__ = as_first_base(Monitored, type(trainer))
    trainer.monitors, trainer.step_numbers = monitors, defaultdict(list)
    monitors.follow(trainer)


def regularize(trainer: Any, stage: Any, run: Run) -> None:
    """Adds the regularizers of a stage to a trainer's loss, once per optimizer step."""
    named = _by_name(stage.regularizers, run)
    if named:
        trainer.regularizers = {name: each.build(run, trainer.model) for name, each in named.items()}
        if not hasattr(trainer, "note_update"):
            trainer.note_update = lambda numbers: _log_later(trainer, numbers)
        trainer.__class__ = as_first_base(Regularized, type(trainer))


def evaluate_as(trainer: Any, way: type) -> None:
    """Has a trainer evaluate as a class says that is to be its first base."""
    trainer.__class__ = as_first_base(way, type(trainer))


def clip_by_value(trainer: Any, limit: float | None) -> None:
    """Holds each component of a trainer's gradients within a limit, at every optimizer step; None is no limit.

    Raises:
        RunError: its optimizer steps within the backward pass.
    """
    if limit is None:
        return
    if steps_in_backward(trainer.args):
        raise RunError(
            f"max_grad_value: {stepping(trainer.args)} steps within the backward pass, where no gradient can be clipped"
        )
    trainer.add_callback(ClipByValue(limit))


class ClipByValue(TrainerCallback):
    """Clips gradients by value, after the Trainer has unscaled them and clipped their norm."""

    def __init__(self, limit: float) -> None:
        self._limit = limit

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Called by the trainer."""
        torch.nn.utils.clip_grad_value_(model.parameters(), self._limit)


class Regularized:
    """A Trainer with terms that are added to its loss; a class's first base."""

    regularizers: Terms
    note_update: Callable[[Mapping[str, float]], None]  # logs numbers of an update

    def training_step(self: Any, model: Any, inputs: Any, *given: Any) -> Tensor:
        """The loss; before an optimizer step that changes anything, with the terms and their gradients.

        Raises:
            ComponentError: a regularizer fails, or answers anything but a finite scalar with a gradient.
        """
        loss: Tensor = super().training_step(model, inputs, *given)  # type: ignore[misc]
        if not self.accelerator.sync_gradients or all(weights.grad is None for weights in self.model.parameters()):
            return loss
        for name, term in self.regularizers.items():
            value = term()
            self.accelerator.backward(value)
            self.note_update({f"regularizer/{name}": value.item()})
            loss = loss + value.detach().to(loss.device)
        return loss


class Monitored:
    """A Trainer that shows its monitors every optimizer step; a class's first base."""

    monitors: Monitors
    step_numbers: dict[str, list[float]]  # numbers of the batches since the last optimizer step

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains, and counts the cost."""
        with counting() as self.monitors.counter:
            return super().train(*args, **kwargs)  # type: ignore[misc]

    def training_step(self: Any, model: Any, inputs: Any, *given: Any) -> Tensor:
        """The loss of a batch, of all processes, after the monitors have seen the step that it completes.

        Raises:
            RunError: the loss is not finite, or a monitor stops the training.
        """
        metrics = getattr(self, "_metrics", {"train": {}})["train"]
        before = {name: len(values) for name, values in metrics.items()}
        loss: Tensor = super().training_step(model, inputs, *given)  # type: ignore[misc]
        metrics = getattr(self, "_metrics", {"train": {}})["train"]  # a recovery from too little memory replaces it
        step = self.state.global_step + 1
        whole = processes.mean(loss)
        number = whole.item()
        if not isfinite(number):
            message = not_finite("the loss", whole)
            self.monitors.stop("finite", Alarm(message, action="stop"), step)
        self.step_numbers["loss"].append(number)
        for name, values in metrics.items():
            if name in NOT_KEPT:
                continue
            self.step_numbers[name] += map(float, values[before.get(name, 0) :])
        if self.accelerator.sync_gradients:
            self._show(step)
        return whole

    def _show(self: Any, step: int) -> None:
        numbers = {name: sum(values) / len(values) for name, values in self.step_numbers.items() if values}
        numbers["loss"] = sum(self.step_numbers["loss"])  # a batch's loss is divided by the number of batches already
        self.step_numbers.clear()
        numbers["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        factors = self.monitors.show(Step("", step, self.state.max_steps, numbers), {"scale_lr"})
        scale_learning_rate(self, factors["scale_lr"])


def _log_later(trainer: Any, numbers: Mapping[str, float]) -> None:
    for name, value in numbers.items():
        trainer._metrics["train"][name].append(value)


def as_first_base(first: type, cls: type) -> type:
    """A class whose first base is the one, and which is shown as the other; the same two give one class."""
    return _composed((first, cls))


@cache
def _composed(bases: tuple[type, type]) -> type:
    shown = bases[1]
    return type(shown.__name__, bases, {"__module__": shown.__module__, "__qualname__": shown.__qualname__})


def _by_name(components: Any, run: Run) -> dict[str, Any]:
    """Components by their registered names; a second one of a name has its number behind it."""
    found: dict[str, Any] = {}
    for each in components:
        name = run.spec(each)["use"]
        again = sum(known.partition(" ")[0] == name for known in found)
        found[f"{name} {again + 1}" if again else name] = each
    return found
