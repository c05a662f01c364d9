"""How far a training is, while it goes on: a bar in a terminal, a line now and then in a file. It knows no model."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

EVERY = 10.0  # seconds between lines, where nobody looks at a terminal
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
        self._every, self._clock = every, clock
        self._bar: Any = None
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
        self.numbers |= {name: float(value) for name, value in (logs or {}).items() if name in SHOWN}
        if self._bar is not None:
            self._bar.set_postfix_str(words(self.numbers))

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
        done, taken = state.global_step - self._first, self._said - self._began
        left = taken / done * max(state.max_steps - state.global_step, 0) if done else 0.0
        parts = [f"{_name(args)}: step {state.global_step} of {state.max_steps}", words(self.numbers)]
        parts += [f"{_duration(taken)} so far, about {_duration(left)} left" if left else f"{_duration(taken)}"]
        sys.stderr.write(", ".join(filter(None, parts)) + "\n")
        sys.stderr.flush()


class Counted:
    """How far an evaluation or the like is: a bar in a terminal, a line now and then in a file.

    Args:
        name: what it is.
        total: how many there are.
        unit: of what.
        every: seconds between two lines.
        clock: seconds.
    """

    def __init__(
        self, name: str, total: int, unit: str, every: float = EVERY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name, self._total, self._unit, self._every, self._clock = name, total, unit, every, clock
        self._began = self._said = clock()
        self._done = 0
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=name, unit=f" {unit}", dynamic_ncols=True)

    def add(self, count: int) -> None:
        """So many more are done."""
        self._done = min(self._done + count, self._total)
        if self._bar is not None:
            self._bar.update(self._done - self._bar.n)
        elif self._clock() - self._said >= self._every and self._done < self._total:
            self._said = self._clock()
            left = (self._said - self._began) * (self._total / max(self._done, 1) - 1)
            where = f"{self._name}: {self._done:,} of {self._total:,} {self._unit}"
            sys.stderr.write(f"{where}, about {_duration(left)} left\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Nothing more is done."""
        if self._bar is not None:
            self._bar.close()


def words(numbers: Mapping[str, float]) -> str:
    """The numbers that are shown, `loss 0.6931, reward 0.412`."""
    found = {shown: numbers[name] for name, shown in SHOWN.items() if name in numbers}
    return ", ".join(f"{shown} {value:.4g}" for shown, value in found.items())


def _name(args: Any) -> str:
    """The stage, by its folder `01-dpo`."""
    return Path(args.output_dir).name.lstrip("0123456789").lstrip("-") or "training"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
