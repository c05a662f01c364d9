"""What trackers such as W&B need of a run with several stages: a name for each, and an end after each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


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
