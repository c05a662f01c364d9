"""The end of a stage that trains a policy on rows: within its budget, then saved and reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_plugins.contract.run import ReportParts, Run, StageResult
from rlhf_plugins.stages._training_options import PolicyTraining, Training


def train_policy(stage: Training, run: Run, trainer: Any, left_out: Mapping[str, int], **saving: Any) -> StageResult:
    """Trains the policy of a trainer, and leaves it with its tokenizer in `model/`.

    Args:
        stage: whose options supervise the training.
        run: the run of the stage.
        trainer: the trainer of transformers, ready to train.
        left_out: rows, by reason.
        saving: options of the model's `save_pretrained`.
    """
    from rlhf_plugins.contract import processes
    from rlhf_plugins.engine.weights.shards import to_save
    from rlhf_plugins.trainers.arguments import record_curves
    from rlhf_plugins.trainers.optimizer_state import hand_on
    from rlhf_plugins.trainers.watching.budget import spending
    from rlhf_plugins.trainers.watching.held_out import choice
    from rlhf_plugins.trainers.watching.supervision import supervise
    from rlhf_plugins.trainers.watching.tasks import measure_tasks

    curves, monitors = record_curves(trainer, run.log), supervise(trainer, stage, run)
    if isinstance(stage, PolicyTraining):
        measure_tasks(trainer, stage.tasks, run, curves)
        hand_on(trainer, stage, run)
    with spending(trainer, stage.budget) as spent:
        run.go_on(trainer)
    folder, weights = run.folder / "model", to_save(trainer.model)

    def save() -> None:
        trainer.model.save_pretrained(folder, **weights, **saving)
        trainer.processing_class.save_pretrained(folder)

    processes.on_main(save)
    return StageResult(
        policies={stage.name: {"use": "trained", "path": str(folder), "base": run.base.path}},
        report=ReportParts(left_out=left_out, notes=(*spent.notes, *choice(trainer, stage.name))),
        sections=monitors.sections(),
        curves=curves.curves,
        metrics=spent.metrics,
    )
