"""The whole state of a training between two steps, and a Trainer that goes on from it bit for bit.

What a Trainer of ours knows besides comes from its `own_state`, and from the parts that it names in `stateful`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, set_seed
from transformers.trainer_callback import ExportableState

from rlhf_plugins.contract import processes
from rlhf_plugins.engine.log_probs import try_head
from rlhf_plugins.engine.packing import set_weights, weights_of
from rlhf_plugins.engine.weights.partitions import fetch_what_is_read
from rlhf_plugins.engine.weights.shards import like, optimizer_state, take_main_ones, whole, writing
from rlhf_plugins.errors import RunError
from rlhf_plugins.reward_models.composed import has_state
from rlhf_plugins.trainers import zero

PICKLE, BEST = "training_args.bin", "trained.safetensors"  # files of a model that may be the best
CARD = "README.md"  # written by PEFT and TRL without the model's name and base
State = dict[str, Any]
AT_FIRST = ("random", "others")  # parts of a state that are set at the first batch
SUMS = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged", "current_flos", "_total_train_tokens")


class Keeper(Protocol):
    """What a training's checkpoints are kept by."""

    def between_steps(self, trainer: Any) -> None:
        """Called after each optimizer step, when all of it is logged and evaluated."""
        ...

    def saved(self, trainer: Any, folder: Path) -> None:
        """Called when transformers has saved the model of a step."""
        ...


class Resumable:
    """A Trainer whose state is kept; a class's first base."""

    keeper: Keeper
    resumed: State | None = None  # state that it goes on from
    writes: Callable[[Path], None] | None = None  # writes its model as ours, where transformers' form does not open

    def _maybe_log_save_evaluate(self: Any, *given: Any, **named: Any) -> None:
        super()._maybe_log_save_evaluate(*given, **named)  # type: ignore[misc]
        if not float(self.state.epoch).is_integer():  # a last step of an epoch is whole after the epoch's own log
            self.keeper.between_steps(self)

    def _run_epoch(self: Any, *given: Any, **named: Any) -> None:
        super()._run_epoch(*given, **named)  # type: ignore[misc]
        if float(self.state.epoch).is_integer():
            self.keeper.between_steps(self)

    def save_model(self: Any, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves a step: where processes divide the model, its trained weights alone. Without the pickle and the card
        that others put beside it."""
        folder = Path(output_dir or self.args.output_dir)
        if self._saves_weights():
            weights = whole(weights_of(self.model))
            processes.on_main(lambda: _save(weights, folder / BEST))
            if self.writes is not None and not _is_divided():
                self.writes(folder)
        else:
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]
        for name in (PICKLE, CARD):
            (folder / name).unlink(missing_ok=True)
        self.keeper.saved(self, folder)

    def _saves_weights(self) -> bool:
        """Whether it saves the trained weights, which it reads as the best, in a file of their own."""
        return _is_divided() or self.writes is not None

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """TRL writes one with every checkpoint; `rlhf export` writes ours."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """These and what follows are in our checkpoints, without pickles."""

    def _save_scaler(self, output_dir: str) -> None:
        """See above."""

    def _save_rng_state(self, output_dir: str) -> None:
        """See above."""

    def _prepare_for_training(self: Any, max_steps: int, train_dataloader: Any, checkpoint: str | None) -> Any:
        """Under DeepSpeed, transformers would load a checkpoint of DeepSpeed's own here."""
        take_main_ones(self.model)
        parts = processes.divides_optimizer()
        if parts:
            zero.wrap(self)
        if processes.zero3():
            try_head(self.model)
        prepare: Any = super()._prepare_for_training  # type: ignore[misc]
        prepared = prepare(max_steps, train_dataloader, None if parts else checkpoint)
        if processes.zero3():
            fetch_what_is_read(self.model)
        if checkpoint is None or not parts:
            return prepared
        self._load_from_checkpoint(checkpoint)
        self._load_optimizer_and_scheduler(checkpoint)
        return prepared

    def _load_from_checkpoint(self: Any, checkpoint: str, model: Any = None) -> None:
        load_weights(self, self.resumed)

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str) -> None:
        if processes.divides_optimizer():
            zero.load_part(self, self.resumed["optimizer"])
        else:
            self.optimizer.load_state_dict(optimizer_state(self.resumed["optimizer"], self.optimizer))
        self.lr_scheduler.load_state_dict(self.resumed["scheduler"])

    def _load_scaler(self: Any, checkpoint: str) -> None:
        if self.resumed["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(self.resumed["scaler"])

    def _load_rng_state(self: Any, checkpoint: str) -> None:
        set_random_state(own_random_state(self.resumed))
        was_there = processes.index() <= len(self.resumed.get("others", ()))
        if not was_there and getattr(self, "draws_apart", False):
            set_seed(int(torch.randint(2**31, ())) + processes.index())

    def _load_best_model(self: Any) -> None:
        if self._saves_weights():
            load_weights(self, {"weights": load_file(Path(self.state.best_model_checkpoint, BEST))})
            return
        processes.on_main(lambda: None)  # the main process wrote it
        super()._load_best_model()  # type: ignore[misc]


class GoesOn(TrainerCallback):
    """Restores what the training loop sets to its beginning; the last callback of a trainer."""

    def __init__(self, trainer: Any, state: State) -> None:
        self._trainer, self._state = trainer, state

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Called by the trainer."""
        self._trainer.args.eval_on_start = False  # it was made
        self._trainer._initial_global_step = 0  # the mean loss is of all steps
        self._trainer.state.compute_steps(self._trainer.args, self._trainer.state.max_steps)  # `logging_steps` of now
        load_rest(self._trainer, self._state)
        self._trainer.resumed = {name: value for name, value in self._state.items() if name in AT_FIRST}
        self._state = {}


def _is_divided() -> bool:
    """Whether transformers would save and load a model in a format of FSDP's or DeepSpeed's."""
    return processes.shards() or processes.divides_optimizer()


def _save(weights: Mapping[str, torch.Tensor], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: each.detach().to("cpu", copy=True).contiguous() for name, each in weights.items()}, file)


def state_of(trainer: Any) -> State:
    """All that a training goes on from."""
    scaler = getattr(trainer.accelerator, "scaler", None)
    return {
        **outcome_of(trainer),
        "optimizer": zero.state_in_parts(trainer)
        if processes.divides_optimizer()
        else whole(trainer.optimizer.state_dict()),
        "scheduler": trainer.lr_scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
    }


def outcome_of(trainer: Any) -> State:
    """What counts of a training that is finished; of several processes they all ask, and get the main one's."""
    metrics = getattr(trainer, "_metrics", {})
    random_states = processes.gathered(random_state())
    return {
        "weights": whole(weights_of(trainer.model)),
        "random": random_states[0],
        "others": random_states[1:],
        "sums": {name: getattr(trainer, name) for name in SUMS if hasattr(trainer, name)},
        "metrics": {mode: {name: list(values) for name, values in own.items()} for mode, own in metrics.items()},
        "callbacks": {name: _callback_state(each) for name, each in _callbacks(trainer)},
        "parts": {name: part.state_dict() for name, part in _parts(trainer)},
        "trainer": trainer.own_state() if hasattr(trainer, "own_state") else None,
        "watched": _watched(trainer.monitors) if hasattr(trainer, "monitors") else None,
    }


def load_weights(trainer: Any, state: State) -> None:
    """Raises RunError where the model has other weights than the one whose state it was."""
    own = weights_of(trainer.model)
    given = {name: like(each, own.get(name, each)) for name, each in state["weights"].items()}
    try:
        with writing(trainer.model):
            set_weights(trainer.model, given)
    except ValueError as error:
        raise RunError(f"the checkpoint is of another model: {error}; delete it to train from the beginning") from error


def load_rest(trainer: Any, state: State) -> None:
    """All but weights, optimizer and random state. Raises RunError where a part is missing."""
    for name, value in state["sums"].items():
        own = value.to(trainer.args.device) if isinstance(value, torch.Tensor) else value
        setattr(trainer, name, own)
    for mode, values in state["metrics"].items():
        trainer._metrics[mode].clear()
        trainer._metrics[mode].update(values)
    if state["watched"] is not None:
        trainer.monitors.counter.load_state_dict(processes.goes_on_from(state["watched"]["counters"]))
        trainer.monitors.raised = state["watched"]["alarms"]
    for kind, known, load in (("callbacks", _callbacks, _load_callback), ("parts", _parts, _load_part)):
        own = dict(known(trainer))
        for name, value in state[kind].items():
            if name not in own:
                raise RunError(f"the checkpoint has the state of {name}, which this training lacks; delete it")
            load(own[name], value)
    if state["trainer"] is not None:
        trainer.load_own_state(state["trainer"])


def random_state() -> State:
    """The random states of Python, numpy and torch."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 (what transformers seeds)
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def own_random_state(state: State) -> State:
    """The state of this process; that of the main one for a process that the checkpoint does not know."""
    every: list[State] = [state["random"], *state.get("others", [])]
    return every[processes.index()] if processes.index() < len(every) else every[0]


def set_random_state(state: State) -> None:
    """Makes it what it was."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def made_of(trainer: Any) -> dict[str, Any]:
    """What a trainer is made of beside its model and may have a state of its own, by name."""
    named: Mapping[str, Any] = trainer.stateful() if hasattr(trainer, "stateful") else {}
    regularizers = getattr(trainer, "regularizers", {})
    every = {**named, **{f"regularizer {name}": each for name, each in regularizers.items()}}
    if hasattr(trainer, "monitors"):
        every["monitors"] = trainer.monitors
    return every


def _parts(trainer: Any) -> Iterator[tuple[str, Any]]:
    """The parts that have a state."""
    yield from ((name, part) for name, part in made_of(trainer).items() if has_state(part))


def _watched(monitors: Any) -> State:
    return {"counters": processes.gathered(monitors.counter.state_dict()), "alarms": monitors.raised}


def _callbacks(trainer: Any) -> Iterator[tuple[str, Any]]:
    """The callbacks with a state, by class and their number among those of it: others may come and go."""
    seen = Counter[str]()
    for each in trainer.callback_handler.callbacks:
        seen[name := type(each).__name__] += 1
        if hasattr(each, "state_dict") or isinstance(each, ExportableState):
            yield f"{name} {seen[name]}", each


def _callback_state(callback: Any) -> Any:
    return callback.state_dict() if hasattr(callback, "state_dict") else callback.state()["attributes"]


def _load_callback(callback: Any, state: Any) -> None:
    if hasattr(callback, "load_state_dict"):
        callback.load_state_dict(state)
    else:
        vars(callback).update(state)


def _load_part(part: Any, state: Any) -> None:
    part.load_state_dict(state)
