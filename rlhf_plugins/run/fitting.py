"""Trains a transformers Trainer of a guest's with a run's bar, hooks and checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.run import Curve
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from rlhf_plugins.run.stage_run import StageRun

CHECKED = ("loss", "grad_norm")


def fit(run: StageRun, trainer: Any) -> Mapping[str, Curve]:
    """The curves of a training. Raises RunError where a loss or the norm of a gradient is not finite."""
    import torch
    from transformers import Trainer

    from rlhf_plugins.trainers.arguments import finite, quiet

    if not isinstance(trainer, Trainer):
        raise RunError(f"fit: expected a transformers Trainer, got {type(trainer).__name__}")

    def log(step: int, values: Mapping[str, float]) -> None:
        for name in CHECKED:
            if name in values:
                finite(torch.tensor(values[name]), step, name)
        run.log(step, values)

    trainer.args.logging_nan_inf_filter = False  # it would show the mean of the finite losses
    curves = quiet(trainer, log, run.stopped)
    trainer.train()
    return curves.curves
