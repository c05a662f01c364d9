"""What is noted beside a model that a stage saved: its base, its plugins, and how its prompts were."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_plugins.contract.run_kinds import Stage
    from rlhf_plugins.run.stage.stage_run import StageRun


def note_policy(run: StageRun, folder: Path) -> None:
    """Notes the base of a policy, and ends that it has from its start."""
    from rlhf_plugins.engine.policy import describe
    from rlhf_plugins.engine.weights.end_tokens import hand_on_ends

    describe(folder, run.base, run.services.files(run.folder).path)
    hand_on_ends(run.places.start.folder, folder)


def note_reward(run: StageRun, stage: Stage, folder: Path) -> None:
    """Notes the plugins that a reward model was made with."""
    from rlhf_plugins.recipe import provenance

    provenance.record(folder, stage, run.services.registry)


def note_model(run: StageRun, folder: Path) -> None:
    """Notes the prompts of a policy or a reward model, and puts the modules of its adapter in order."""
    from rlhf_plugins.engine.prompt_form import note_prompts
    from rlhf_plugins.engine.weights.matching import in_order

    in_order(folder)
    note_prompts(folder, run.data, run.places.start.folder or Path(run.places.start.base.path))
