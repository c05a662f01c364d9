"""The state of an optimizer: allocated before the first pass, and kept beside a policy for a later stage."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import TrainerCallback

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.run import Run, Weights
from rlhf_plugins.data.digests import refuse_changed
from rlhf_plugins.data.file_names import CRITICS_OPTIMIZER, OPTIMIZER
from rlhf_plugins.engine.weights.matching import misfit, shapes
from rlhf_plugins.errors import RunError

NOTES = "notes"  # its metadata: the optimizer's class, the shapes of the weights, and what is no tensor
OLDER = "was kept by an older version of rlhf-plugins: train with `optimizer: new`"
Named = Mapping[str, Tensor]
NONE: Named = MappingProxyType({})


def hand_on(trainer: Any, stage: Any, run: Run, critic: Named = NONE) -> None:
    """Has a trainer begin with the optimizer's state that its start kept, and keep its own, as the stage and run ask.

    That of the critic's weights is a file of its own, which counts where the critic is carried too.

    Args:
        trainer: ready to train.
        stage: whose options `optimizer` and `keep_optimizer` count.
        run: the run of the stage.
        critic: the critic's weights, under names that are the same in a later stage.

    Raises:
        RunError: the stage starts from the base, its start kept none, several processes share the state, or the weights
            that are saved may be of an earlier step.
    """
    begins = stage.optimizer == "start" or "optimizer" in run.carry
    if (begins or stage.keep_optimizer) and trainer.accelerator.num_processes > 1:
        raise RunError("optimizer, keep_optimizer: several processes may each hold a part of the state; leave them out")
    if stage.keep_optimizer and trainer.args.load_best_model_at_end:
        raise RunError("keep_optimizer: its state is the last step's, and load_best_model_at_end saves other weights")
    others = {id(each) for each in critic.values()}
    policy = {name: each for name, each in trainer.model.named_parameters() if id(each) not in others}
    files = {name: _trained(one) for name, one in ((OPTIMIZER, policy), (CRITICS_OPTIMIZER, critic)) if one}
    if begins:
        start = run.weights("start")
        asked = files if "value" in run.carry else {OPTIMIZER: files[OPTIMIZER]}
        refuse_none_kept(start, asked)
        found = {stage_of(start) / name: weights for name, weights in asked.items()}
        trainer.add_callback(_Begins(trainer, found))
    if stage.keep_optimizer:
        trainer.add_callback(_Keeps({Path(run.folder) / name: weights for name, weights in files.items()}))


def stage_of(start: Weights) -> Path:
    """The folder of the stage that saved these weights, in which it left what a later one may go on with."""
    return (start.folder or Path(start.base.path)).parent


def refuse_none_kept(start: Weights, names: Iterable[str] = (OPTIMIZER,)) -> None:
    """Raises RunError where the stage that saved these weights left no file of one of these names."""
    if not all((stage_of(start) / name).is_file() for name in names):
        raise RunError(f"optimizer: {start.name} kept no optimizer: write `keep_optimizer: true` where it is trained")


class AllocatesState(TrainerCallback):
    """Has torch's Adam hold its state before the first pass: memory then runs out in a pass, which can be cut."""

    def on_train_begin(self, *_: Any, optimizer: Any = None, **__: Any) -> None:
        """Called by the trainer."""
        own = _inner(optimizer)
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
    """Writes the state of each weight by its name, at the end of a training."""

    def __init__(self, files: Mapping[Path, Named]) -> None:
        self._files = files

    def on_train_end(self, *_: Any, optimizer: Any = None, **__: Any) -> None:
        """Called by the trainer."""
        for file, named in self._files.items():
            tensors, numbers = dict[str, Tensor](), dict[str, Any]()
            for name, weights in named.items():
                for key, value in optimizer.state.get(weights, {}).items():
                    place = f"{name}/{key}"
                    if isinstance(value, Tensor):
                        tensors[place] = value.cpu().contiguous()
                    else:
                        numbers[place] = value
            notes = {"optimizer": _class(optimizer), "weights": shapes(named), "numbers": numbers}
            save_file(tensors, file, {NOTES: json.dumps(notes)})


class _Begins(TrainerCallback):
    """Gives the optimizer what another kept, unless the training goes on from a checkpoint."""

    def __init__(self, trainer: Any, files: Mapping[Path, Named]) -> None:
        self._trainer, self._files = trainer, files

    def on_train_begin(self, *_: Any, optimizer: Any = None, **__: Any) -> None:
        """Called by the trainer. Raises RunError where the state is of other weights, or of another optimizer."""
        if getattr(self._trainer, "resumed", None) is not None:
            return
        whole = optimizer.state_dict()
        places = dict(_places(optimizer.param_groups, whole["param_groups"]))
        for file, named in self._files.items():
            kept, notes = _read(file)
            if notes["optimizer"] != _class(optimizer):
                raise RunError(
                    f"{file}: is the state of {notes['optimizer']}, and {_class(optimizer)} trains here: "
                    "write the same `optim` in both stages"
                )
            if wrong := misfit(shapes(named), {name: tuple(shape) for name, shape in notes["weights"].items()}):
                raise RunError(f"{file}: is of another model: it {wrong}")
            whole["state"] |= {places[id(named[name])]: state for name, state in kept.items()}
        optimizer.load_state_dict(whole)


def _read(file: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The state of each weight by its name, and the notes. Raises RunError where it cannot be read."""
    refuse_changed(file)
    try:
        with safe_open(file, "pt") as stored:
            written = stored.metadata() or {}
            if NOTES not in written:
                raise RunError(f"{file}: {OLDER}")
            notes = json.loads(written[NOTES])
            found = notes["numbers"] | {key: stored.get_tensor(key) for key in list(stored.keys())}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file}: cannot be read: {error}") from error
    states: dict[str, dict[str, Any]] = {}
    for key, value in found.items():
        name, _, part = key.rpartition("/")
        states.setdefault(name, {})[part] = value
    return states, notes


def _places(groups: Iterable[Any], numbered: Iterable[Any]) -> Iterable[tuple[int, int]]:
    """Each weight's identity, and its number in the optimizer's state."""
    for group, own in zip(groups, numbered, strict=True):
        yield from zip(map(id, group["params"]), own["params"], strict=True)


def _trained(named: Named) -> Named:
    return {name: weights for name, weights in named.items() if weights.requires_grad}


def _inner(optimizer: Any) -> Any:
    return getattr(optimizer, "optimizer", optimizer)  # accelerate's


def _class(optimizer: Any) -> str:
    own = type(_inner(optimizer))
    return f"{own.__module__}.{own.__qualname__}"
