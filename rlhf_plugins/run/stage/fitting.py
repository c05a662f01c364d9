"""Trains a plugin's own transformers Trainer with a run's progress bar, hooks and checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.run import Curve
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from rlhf_plugins.contract.run_kinds import Monitor
    from rlhf_plugins.run.stage.stage_run import StageRun

CHECKED = ("loss", "grad_norm")


def fit(run: StageRun, trainer: Any, monitors: Sequence[Monitor]) -> Mapping[str, Curve]:
    """The curves. Raises RunError where a loss or the norm of a gradient is not finite, or a monitor stops it."""
    import torch
    from transformers import Trainer

    from rlhf_plugins.trainers.arguments import finite, record_curves
    from rlhf_plugins.trainers.watching.supervision import monitors_of, watch

    if not isinstance(trainer, Trainer):
        raise RunError(f"fit: expected a transformers Trainer, got {type(trainer).__name__}")

    def log(step: int, values: Mapping[str, float]) -> None:
        for name in CHECKED:
            if name in values:
                finite(torch.tensor(values[name]), step, name)
        run.log(step, values)

    if strange := [each.recipe_name for each in monitors if each.reads_rollouts]:
        raise RunError(f"fit: a monitor reads rollouts, of which a plugin's Trainer makes none: {strange[0]}")
    if monitors:
        watch(trainer, monitors_of(monitors, run.name, run))
    trainer.args.logging_nan_inf_filter = False  # it would show the mean of the finite losses
    curves = record_curves(trainer, log)
    run.go_on(trainer, last=False)
    return curves.curves
