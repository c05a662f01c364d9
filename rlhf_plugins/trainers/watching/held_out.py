"""Evaluation while a stage trains: the held-out rows, and a training that ends once they show nothing better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from transformers import EarlyStoppingCallback

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


def stop_early(trainer: Any, patience: int | None, threshold: float) -> None:
    """Ends a training after so many evaluations without a better one; without a metric of its own, the loss says.

    Raises:
        RunError: it makes no evaluation.
    """
    if patience is None:
        return
    args = trainer.args
    if args.eval_strategy == "no":
        raise RunError("early_stopping_patience: needs `eval_strategy`, since no evaluation is made")
    if args.metric_for_best_model is None:
        args.metric_for_best_model = "loss"
    if args.greater_is_better is None:
        args.greater_is_better = not args.metric_for_best_model.endswith("loss")
    trainer.add_callback(EarlyStoppingCallback(patience, threshold))
