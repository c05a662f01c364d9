"""Measures tasks at every evaluation of a policy that is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from peft import PeftModel

from rlhf_plugins.contract.metrics import Logged
from rlhf_plugins.contract.run import Run
from rlhf_plugins.contract.run_kinds import Task
from rlhf_plugins.engine.backbone import POLICY, Backbone
from rlhf_plugins.engine.policy import ModelPolicy
from rlhf_plugins.engine.weights.shards import gathered
from rlhf_plugins.errors import RunError
from rlhf_plugins.trainers.arguments import Curves
from rlhf_plugins.trainers.watching.progress import Progress
from rlhf_plugins.trainers.watching.supervision import evaluate_as


def measure_tasks(trainer: Any, tasks: Sequence[Task], run: Run, curves: Curves) -> None:
    """Adds the mean share of each task to what a trainer measures of its policy, as `eval_NAME`.

    Raises:
        RunError: the trainer makes no evaluation, or a task cannot be built.
    """
    if not tasks:
        return
    if trainer.args.eval_strategy == "no":
        raise RunError("tasks: need `eval_strategy`, since no evaluation is made")
    built = {task.name: task.build(run) for task in tasks}
    curves.known |= {task.name: Logged("share", "of the task's rows", task.better) for task in tasks}
    for bar in (each for each in trainer.callback_handler.callbacks if isinstance(each, Progress)):
        bar.shown |= {f"eval_{name}": name for name in built}
    adapter = POLICY if isinstance(trainer.model, PeftModel) else None
    policy = ModelPolicy(Backbone(trainer.model, run.base), adapter)

    def shares() -> dict[str, float]:
        found = {name: share(policy) for name, share in built.items()}
        return {name: sum(rows) / len(rows) for name, rows in found.items()}

    trainer.task_shares = shares
    evaluate_as(trainer, MeasuresTasks)


class MeasuresTasks:
    """A Trainer that measures tasks where it evaluates; a class's first base."""

    task_shares: Callable[[], Mapping[str, float]]

    def evaluation_loop(self: Any, *given: Any, metric_key_prefix: str = "eval", **named: Any) -> Any:
        """The trainer's; the shares are among its numbers, so that they are logged and may choose the best weights."""
        found = super().evaluation_loop(*given, metric_key_prefix=metric_key_prefix, **named)  # type: ignore[misc]
        with gathered(self.model):
            shares = self.task_shares()
        found.metrics.update({f"{metric_key_prefix}_{name}": share for name, share in shares.items()})
        return found
