"""Opens what a run saved, names and all. It knows the registry, not how models are stored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_plugins.recipe.assemble import component

if TYPE_CHECKING:
    from rlhf_plugins.models.reward_model import RewardModel


def load_reward_model(folder: str | Path, trust_remote_code: bool = False) -> RewardModel:
    """A reward model as a `reward` stage saved it, such as `runs/quickstart/01-reward/model`.

    Raises:
        RunError: the folder holds no reward model, or a part of it is missing.
        PluginError: it was made with a pooling or head that no installed plugin registers.
    """
    from rlhf_plugins.models.reward_model import open_reward_model

    return open_reward_model(Path(folder), component, trust_remote_code)
