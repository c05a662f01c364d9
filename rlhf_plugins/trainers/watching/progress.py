"""How far a training is, while it goes on: steps, numbers and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import has_length

from rlhf_plugins.engine.progress import EVERY, Counted, left, left_of_run, line
from rlhf_plugins.report.words import duration

PART = "reward/"  # before the name of one
PARTS = 4  # most of a reward's that are shown
SHOWN = {  # logged name -> as it is shown, in this order
    "loss": "loss",
    "reward": "reward",
    "kl": "KL",
    "length": "length",
    "rewards/accuracies": "accuracy",
    "accuracy": "accuracy",
    "eval_loss": "held-out loss",
    "eval_reward": "held-out reward",
    "eval_rewards/accuracies": "held-out accuracy",
    "eval_accuracy": "held-out accuracy",
}


class Progress(TrainerCallback):
    """Steps, the latest numbers and the time left.

    Args:
        every: seconds between two lines.
        clock: seconds.
    """

    def __init__(self, every: float = EVERY, clock: Callable[[], float] = time.monotonic) -> None:
        self.numbers: dict[str, float] = {}
        self.shown = dict(SHOWN)
        self._every, self._clock = every, clock
        self._bar: Any = None
        self._held_out: Counted | None = None
        self._began = self._said = clock()
        self._first = self._seen = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer."""
        if not state.is_world_process_zero:
            return
        self._began = self._said = self._clock()
        self._first = self._seen = state.global_step
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc=_name(args), dynamic_ncols=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer."""
        if not state.is_world_process_zero:
            return
        if self._bar is not None:
            self._bar.update(state.global_step - self._seen)
        elif self._clock() - self._said >= self._every:
            self._line(args, state)
        self._seen = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Called by the trainer."""
        known = {name: value for name, value in (logs or {}).items() if name in self.shown or name.startswith(PART)}
        self.numbers |= {name: float(value) for name, value in known.items()}
        if self._bar is not None:
            parts = words(self.numbers, self.shown), left_of_run(*self._so_far(state))  # the bar has the stage's
            self._bar.set_postfix_str(", ".join(filter(None, parts)))

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any) -> None:
        """Called by the trainer for each batch of held-out rows."""
        if not has_length(eval_dataloader):
            return
        if self._held_out is None:
            name, count = f"{_name(args)}, held out", len(eval_dataloader)
            self._held_out = Counted(name, count, "batches", self._every, self._clock, part=True)
        self._held_out.add(1)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer."""
        if self._held_out is not None:
            self._held_out.close()
            self._held_out = None

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif state.is_world_process_zero and self._said > self._began:  # a training without any line needs no last one
            self._line(args, state)

    def _line(self, args: Any, state: Any) -> None:
        """Writes where the training is, and about how long it takes to its last step."""
        self._said = self._clock()
        share, taken = self._so_far(state)
        parts = [f"{_name(args)}: step {state.global_step} of {state.max_steps}", words(self.numbers, self.shown)]
        if share and state.global_step < state.max_steps:
            parts += [f"{duration(taken)} so far", left(share, taken), left_of_run(share, taken)]
        else:
            parts += [duration(taken)]
        line(", ".join(filter(None, parts)))

    def _so_far(self, state: Any) -> tuple[float, float]:
        """The share of the steps since the training began or went on that are done, and their seconds."""
        steps = max(state.max_steps - self._first, 1)
        return (state.global_step - self._first) / steps, self._clock() - self._began


def words(numbers: Mapping[str, float], shown: Mapping[str, str] = SHOWN) -> str:
    """The numbers that are shown, `loss 0.6931, reward 0.412`."""
    found = {word: name for name, word in shown.items() if name in numbers}
    return ", ".join(
        f"{word} {numbers[name]:.4g}{_parts(numbers) if name == 'reward' else ''}" for word, name in found.items()
    )


def _parts(numbers: Mapping[str, float]) -> str:
    """The parts of the reward in brackets, ` (right 0.5, brief 1)`; of many the first ones."""
    named = {name.removeprefix(PART): value for name, value in numbers.items() if name.startswith(PART)}
    shown = [f"{name} {value:.4g}" for name, value in named.items()]
    return f" ({', '.join(shown[:PARTS] + ['...'] * (len(shown) > PARTS))})" if shown else ""


def _name(args: Any) -> str:
    """The stage, by its folder `01-dpo`."""
    return Path(args.output_dir).name.lstrip("0123456789").lstrip("-") or "training"
