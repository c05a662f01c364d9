"""Kills a training in one of its steps, as the end of the process would."""

from __future__ import annotations

from typing import Any

import pytest
import transformers


class Killed(BaseException):
    """In the place of the end of the process."""


def kill_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Ends the next training in its training step of this number."""
    own, steps = transformers.Trainer.training_step, iter(range(1, 1000))

    def training_step(*given: Any) -> Any:
        if next(steps) == step:
            raise Killed
        return own(*given)

    patch.setattr(transformers.Trainer, "training_step", training_step)
