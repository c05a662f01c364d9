"""Evaluation while a stage trains: the held-out rows, and a training that ends once they show nothing better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from transformers import EarlyStoppingCallback, TrainerCallback

from rlhf_plugins.contract import processes
from rlhf_plugins.engine.progress import line
from rlhf_plugins.errors import RunError

Row = TypeVar("Row")
Rows = TypeVar("Rows")


def held_out(args: Any, rows: Sequence[Row], make: Callable[[Sequence[Row]], Rows]) -> Rows | None:
    """What the trainer evaluates on; None where its configuration asks for no evaluation.

    Raises:
        RunError: it asks for one, and no rows are held out.
    """
    if args.eval_strategy == "no":
        return None
    if not rows:
        raise RunError("eval_strategy: no rows are held out; give the data a `test_source`, or leave it out")
    return make(rows)


class Choice(TrainerCallback):
    """Knows at which step evaluations ended a training, and of which step it keeps the weights.

    Args:
        patience: what ends the training after evaluations without a better one; None where nothing does.
    """

    def __init__(self, patience: EarlyStoppingCallback | None) -> None:
        self._patience = patience
        self.said = ""  # empty before the end, and where the training took all its steps and keeps the last

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer."""
        metric, early = f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}", self._patience
        said = []
        if early and early.early_stopping_patience_counter >= early.early_stopping_patience:
            none = f"no better {metric} in {early.early_stopping_patience} evaluations"
            said.append(f"ended at step {state.global_step} of {state.max_steps}: {none}")
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            said.append(f"kept step {state.best_global_step}, {metric} {state.best_metric:.4g}")
        self.said = "; ".join(said)

    def state_dict(self) -> dict[str, Any]:
        """Its state."""
        return {"said": self.said}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        self.said = state["said"]


def choice(trainer: Any, name: str) -> tuple[str, ...]:
    """What `stop_early` has a trainer know, said of the stage of this name, and as notes of its report."""
    found = [each.said for each in trainer.callback_handler.callbacks if isinstance(each, Choice)]
    notes = tuple(f"{name} {said}." for said in found if said)
    for note in notes if processes.is_main() else ():
        line(note)
    return notes


def stop_early(trainer: Any, patience: int | None, threshold: float) -> None:
    """Ends a training after so many evaluations without a better one; without a metric of its own, the loss says.

    `choice` says whether they ended it, and which weights are kept where the best are.

    Raises:
        RunError: it makes no evaluation.
    """
    args = trainer.args
    if patience is None:
        trainer.add_callback(Choice(None))
        return
    if args.eval_strategy == "no":
        raise RunError("early_stopping_patience: needs `eval_strategy`, since no evaluation is made")
    if args.metric_for_best_model is None:
        args.metric_for_best_model = "loss"
    if args.greater_is_better is None:
        args.greater_is_better = not args.metric_for_best_model.endswith("loss")
    early = EarlyStoppingCallback(patience, threshold)
    trainer.add_callback(early)
    trainer.add_callback(Choice(early))
