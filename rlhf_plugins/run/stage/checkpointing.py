"""Trains a Trainer so that a run that was killed goes on from its newest checkpoint, and keeps these."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.guards import maker
from rlhf_plugins.contract.unsaved_state import Looks, unkept
from rlhf_plugins.data.saved_steps import part_of
from rlhf_plugins.engine import cost
from rlhf_plugins.engine.packing import Tensors, pack, unpack
from rlhf_plugins.engine.progress import line
from rlhf_plugins.errors import PluginError, RunError
from rlhf_plugins.run.files.checkpoints import Checkpoints, appended, best, read
from rlhf_plugins.run.stage.saved_models import note_model, note_policy, note_reward
from rlhf_plugins.trainers import zero
from rlhf_plugins.trainers.resuming import (
    GoesOn,
    Resumable,
    load_rest,
    load_weights,
    made_of,
    outcome_of,
    own_random_state,
    set_random_state,
    state_of,
)
from rlhf_plugins.trainers.steps.data_parallel import SharesBatches
from rlhf_plugins.trainers.watching.supervision import as_first_base

if TYPE_CHECKING:
    from pathlib import Path

    from rlhf_plugins.contract.checkpoint import Checkpoint
    from rlhf_plugins.run.stage.stage_run import StageRun

logger = logging.getLogger(__name__)
BEST = "metric_for_best_model"


def go_on(run: StageRun, trainer: Any, last: bool) -> None:
    """Trains a Trainer; see `contract.run.Run.go_on`.

    Raises:
        KeyboardInterrupt: the run was asked to end, and the training did.
        RunError: the checkpoint is of another training.
    """
    if processes.divides_optimizer():
        zero.refuse_untried(trainer, run.base.quantization is not None)
    if processes.fsdp():
        _refuse_whole_copies(trainer)
        zero.refuse_in_parts(trainer, run.base.quantization is not None, "with weights in shards (FSDP)")
    files, stop = Checkpoints(run.folder, run.history.log.trainings), run.services.stop
    run.history.log.trainings += 1
    run.history.log.kept_step = 0
    trainer.add_callback(_Ends(run))
    trainer.__class__ = as_first_base(Resumable, type(trainer))
    trainer.keeper = keeper = Keeper(run, files)
    found = files.newest()
    if found is not None and keeper.load(trainer, found):
        return
    if found is not None:
        trainer.add_callback(GoesOn(trainer, trainer.resumed))
    with _explained():
        trainer.train(resume_from_checkpoint=None if found is None else str(found))
    if stop.asked:  # what the stage goes on to make would not be whole
        raise KeyboardInterrupt
    if keeper.keeps and (not last or processes.from_main(keeper.is_due(trainer))):
        keeper.write(trainer, finished=True)


def _refuse_whole_copies(trainer: Any) -> None:
    """Raises RunError where the launch asks for weights in shards, and accelerate makes none."""
    if not trainer.accelerator.is_fsdp2:
        raise RunError(
            "the launch asks for FSDP, and accelerate shards weights on GPUs alone: here each process would train a "
            "whole copy; write `distributed_type: MULTI_GPU`"
        )


@contextmanager
def _explained() -> Iterator[None]:
    """Raises RunError for a metric that transformers does not find."""
    try:
        yield
    except KeyError as error:
        if BEST not in str(error):
            raise
        raise RunError(" ".join(str(error.args[0]).split())) from error


@dataclass(frozen=True)
class Keeper:
    """Keeps the checkpoints of one training."""

    run: StageRun
    files: Checkpoints
    looks: Looks = field(default_factory=Looks)

    @property
    def keeps(self) -> bool:
        """Whether the recipe asks for any."""
        return self.run.services.checkpoint is not None

    def between_steps(self, trainer: Any) -> None:
        """Writes a checkpoint where one is due, or the run was asked to end, which the training then does."""
        every = processes.gathered((self.run.services.stop.stopped(), self.keeps and self.is_due(trainer)))
        asked, due, ends = any(one for one, _ in every), every[0][1], trainer.control.should_training_stop
        going_on = not ends and trainer.state.global_step < trainer.state.max_steps
        if self.keeps and going_on and (asked or due) and getattr(trainer, "is_whole", True):
            self.write(trainer)
        self.run.services.stop.asked |= asked  # by any process, so that all of them end
        trainer.control.should_training_stop = ends or asked

    def saved(self, trainer: Any, folder: Path) -> None:
        """Notes beside a step that transformers saved what is noted beside the model of a stage."""
        from rlhf_plugins.engine.weights.end_tokens import note_ends
        from rlhf_plugins.trainers.online.engine_or_trl import ends_asked

        if not processes.is_main() or (part := part_of(folder)) is None:
            return
        if part == "policies":
            if (ends := getattr(trainer, "eos_token_ids", ())) and ends_asked(trainer.args):
                note_ends(folder, ends)
            note_policy(self.run, folder)
        else:
            note_reward(self.run, self.run.history.stage, folder)
        note_model(self.run, folder)

    def is_due(self, trainer: Any) -> bool:
        """Whether the policy asks for one now."""
        policy, log = self._policy, self.run.history.log
        since = trainer.state.global_step - log.kept_step if policy.steps else time.monotonic() - log.kept_at
        return since >= (policy.steps or policy.seconds)

    def write(self, trainer: Any, finished: bool = False) -> None:
        """Writes one; where that fails, a warning says why and the training goes on."""
        run, log, step = self.run, self.run.history.log, trainer.state.global_step
        counter = run.ending.counter
        costs = processes.gathered(counter.state_dict()) if counter else None
        state = {
            "finished": finished,
            "trainer": outcome_of(trainer) if finished else state_of(trainer),
            "run": {"calls": log.calls, "costs": costs},
        }
        log.kept_at, log.kept_step = time.monotonic(), step
        if processes.index():  # the state of the others was gathered
            return
        self._warn(trainer)
        tensors: Tensors = {}
        try:
            packed = {name: pack(value, tensors, _records(trainer)) for name, value in state.items()}
            beside = {"files": appended(run.folder), "best": best(run.folder)}
            about = self._about(trainer)
            self.files.write(step, {**packed, **beside}, tensors, about, 1 if finished else self._policy.keep)
        except (OSError, TypeError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"its state holds {error}"
            logger.warning("step %d: no checkpoint was written: %s", step, reason)
        log.kept_at = time.monotonic()

    def _warn(self, trainer: Any) -> None:
        """Says what of a training's parts changes and is in no checkpoint, once each."""
        for built in self.looks.changed(made_of(trainer)):
            try:
                plugin = f" (plugin {self.run.services.registry.find(type(maker(built))).plugin})"
            except PluginError:
                plugin = ""
            logger.warning("%s%s; docs/plugins.md says how", unkept(built), plugin)

    def load(self, trainer: Any, found: Path) -> bool:
        """Takes a trainer and the run to a checkpoint. Returns whether the training is finished there."""
        packed, tensors = read(found)
        parts = (unpack(packed[name], tensors, _records(trainer), trainer.args.device) for name in ("trainer", "run"))
        try:
            state, own = parts
        except (KeyError, TypeError) as error:
            raise RunError(f"{found}: cannot be read: {type(error).__name__}: {error}; delete it") from error
        _refuse_other_count(trainer, found, 1 + len(state.get("others", ())))
        if not packed["finished"]:
            zero.refuse_other_division(trainer, found, state["optimizer"])
        step = int(found.name)
        if processes.is_main() and not packed["finished"]:
            line(f"{self.run.name or 'the training'} goes on from step {step}")
        if own["costs"] and self.run.ending.counter:
            cost.go_on(self.run.ending.counter, processes.goes_on_from(own["costs"]))
        log = self.run.history.log
        for call in own["calls"][len(log.calls) :]:
            self.run.log(*call)
        log.kept_at, log.kept_step = time.monotonic(), step
        trainer.resumed = state
        if packed["finished"]:
            load_weights(trainer, state)
            load_rest(trainer, state)
            set_random_state(own_random_state(state))
        return bool(packed["finished"])

    @property
    def _policy(self) -> Checkpoint:
        assert self.run.services.checkpoint is not None
        return self.run.services.checkpoint

    def _about(self, trainer: Any) -> str:
        """The state of transformers' Trainer as JSON."""
        return json.dumps(dataclasses.asdict(trainer.state), sort_keys=True)


def _refuse_other_count(trainer: Any, found: Path, count: int) -> None:
    """Raises RunError where a trainer that knows no processes goes on from a checkpoint of another number of them."""
    if count != processes.count() and not isinstance(trainer, SharesBatches):
        raise RunError(
            f"{found}: was made in {count} processes, and now there are {processes.count()}, between which "
            f"{type(trainer).__name__} does not share its batches: launch {count} again"
        )


def _records(trainer: Any) -> tuple[type, ...]:
    return getattr(trainer, "records", ())


class _Ends(TrainerCallback):
    """Ends a training where its part of the run is to end, after what it logged or what it cost."""

    def __init__(self, run: StageRun) -> None:
        self._run = run

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer."""
        if self._run.ending():
            control.should_training_stop = True

    on_log = on_step_end
