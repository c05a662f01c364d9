"""Scaled losses, as float16 needs them, of a training that skips some optimizer steps."""

from __future__ import annotations

from typing import Any

import torch


class Scaler(torch.amp.GradScaler):
    """torch's, which an optimizer step without any gradient does not fail: weights and scale stay as they are."""

    _skipped = False

    def step(self, optimizer: torch.optim.Optimizer, *given: Any, **named: Any) -> float | None:
        """The optimizer's step, unless a gradient is infinite."""
        self._skipped = all(weights.grad is None for group in optimizer.param_groups for weights in group["params"])
        if self._skipped:
            return optimizer.step(*given, **named)
        return super().step(optimizer, *given, **named)

    def update(self, new_scale: Any = None) -> None:
        """Adapts the scale to the last step."""
        super().update(self.get_scale() if self._skipped else new_scale)


def accept_skips(trainer: Any) -> None:
    """Has a trainer whose losses are scaled accept steps without gradients; one without a scaler does so anyway."""
    scaler = getattr(trainer.accelerator, "scaler", None)
    if isinstance(scaler, torch.amp.GradScaler):
        scaler.__class__ = Scaler
        scaler.scale(torch.zeros((), device=trainer.accelerator.device))  # a first step may have nothing to scale
