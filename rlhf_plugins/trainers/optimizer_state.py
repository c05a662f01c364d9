"""The state of an optimizer: allocated before the first pass, and kept beside a policy for a later stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import TrainerCallback

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.run import Run
from rlhf_plugins.data.names import OPTIMIZER
from rlhf_plugins.errors import RunError

NUMBERS = "numbers"  # its metadata: what is no tensor


def hand_on(trainer: Any, stage: Any, run: Run, critics: Sequence[torch.Tensor] = ()) -> None:
    """Has a trainer begin with the optimizer's state that its start kept, and keep its own, as the stage asks.

    That of the critic's weights is not kept: a later stage has another critic, or none.

    Raises:
        RunError: the stage starts from the base, its start kept none, or several processes share the state.
    """
    if (stage.optimizer == "start" or stage.keep_optimizer) and trainer.accelerator.num_processes > 1:
        raise RunError("optimizer, keep_optimizer: several processes may each hold a part of the state; leave them out")
    if stage.optimizer == "start":
        start = run.weights("start")
        if start.folder is None or not (file := start.folder.parent / OPTIMIZER).is_file():
            raise RunError(
                f"optimizer: {start.name} kept no optimizer: write `keep_optimizer: true` where it is trained"
            )
        trainer.add_callback(_Begins(trainer, file))
    if stage.keep_optimizer:
        trainer.add_callback(_Keeps(Path(run.folder) / OPTIMIZER, critics))


class AllocatesState(TrainerCallback):
    """Has torch's Adam hold its state before the first pass: memory then runs out in a pass, which can be cut."""

    def on_train_begin(self, *_: Any, optimizer: Any = None, **__: Any) -> None:
        """Called by the trainer."""
        own = getattr(optimizer, "optimizer", optimizer)  # accelerate's
        if type(own) in (torch.optim.Adam, torch.optim.AdamW) and processes.count() == 1:
            allocate(own)


def allocate(optimizer: torch.optim.Adam) -> None:
    """Makes the state of all weights that are trained and have none, as the first step would; no weight changes."""
    for group in optimizer.param_groups:
        trained = [weights for weights in group["params"] if weights.requires_grad]
        gradients = [weights.grad for weights in trained]
        for weights in trained:
            weights.grad = weights.detach()  # which is looked for, and not read
        try:
            optimizer._init_group(group, [], [], [], [], [], [])
        finally:
            for weights, gradient in zip(trained, gradients, strict=True):
                weights.grad = gradient


class _Keeps(TrainerCallback):
    """Writes the state of each weight by its name, but for some."""

    def __init__(self, file: Path, but: Sequence[torch.Tensor]) -> None:
        self._file, self._but = file, {id(each) for each in but}

    def on_train_end(self, *_: Any, model: Any = None, optimizer: Any = None, **__: Any) -> None:
        """Called by the trainer."""
        tensors, numbers = dict[str, torch.Tensor](), dict[str, Any]()
        kept = ((name, each) for name, each in model.named_parameters() if id(each) not in self._but)
        for name, weights in kept:
            for key, value in optimizer.state.get(weights, {}).items():
                is_tensor = isinstance(value, torch.Tensor)
                (tensors if is_tensor else numbers)[f"{name}/{key}"] = value.cpu().contiguous() if is_tensor else value
        save_file(tensors, self._file, {NUMBERS: json.dumps(numbers)})


class _Begins(TrainerCallback):
    """Gives the optimizer what another kept, unless the training goes on from a checkpoint."""

    def __init__(self, trainer: Any, file: Path) -> None:
        self._trainer, self._file = trainer, file

    def on_train_begin(self, *_: Any, model: Any = None, optimizer: Any = None, **__: Any) -> None:
        """Called by the trainer. Raises RunError where the state is of other weights."""
        if getattr(self._trainer, "resumed", None) is not None:
            return
        own = dict(model.named_parameters())
        for name, state in self._read().items():
            if name not in own or any(each.dim() and each.shape != own[name].shape for each in state["same"]):
                raise RunError(f"{self._file}: is of another model: {name} is not among the weights that are trained")
            optimizer.state[own[name]] = {
                key: value.to(own[name].device) if isinstance(value, torch.Tensor) and value.dim() else value
                for key, value in state["values"].items()
            }

    def _read(self) -> dict[str, dict[str, Any]]:
        """By weight: its values, and those that have its shape."""
        try:
            with safe_open(self._file, "pt") as stored:
                names = list(stored.keys())
                found = json.loads(stored.metadata()[NUMBERS]) | {key: stored.get_tensor(key) for key in names}
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self._file}: cannot be read: {error}") from error
        states: dict[str, dict[str, Any]] = {}
        for key, value in found.items():
            name, _, part = key.rpartition("/")
            state = states.setdefault(name, {"values": {}, "same": []})
            state["values"][part] = value
            if part.startswith("exp_avg"):  # of Adam; others hold states in blocks
                state["same"].append(value)
        return states
