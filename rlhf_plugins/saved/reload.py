"""Opens what a run saved, names and all. It knows the registry, not how models are stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins.errors import DataError
from rlhf_plugins.recipe.provenance import opener

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Text
    from rlhf_plugins.reward_models.reward_model import RewardModel


def load_reward_model(folder: str | Path, trust_remote_code: bool = False) -> RewardModel:
    """A reward model as a `reward` stage saved it, such as `runs/quickstart/01-reward/model`.

    Raises:
        RunError: the folder holds no reward model, or a part of it is missing.
        PluginError: a plugin that it was made with is missing; one of another version is warned of.
    """
    from rlhf_plugins.reward_models.reward_model import open_reward_model

    return open_reward_model(Path(folder), opener(Path(folder)), trust_remote_code)


def load_reward_function(folder: str | Path, trust_remote_code: bool = False) -> Callable[..., list[float]]:
    """A saved reward model or ensemble as one of the `reward_funcs` of TRL's trainers.

    The function takes `prompts` and `completions`, both text or both messages, and gives a reward each. It reads them
    as the model was trained to: with the chat template of its base, or with EOS after a text. Its name, which TRL logs
    it under, is that of the folder; of the folder above `model`.

    Raises:
        RunError: the folder holds neither, or a part of it is missing.
        PluginError: a plugin that it was made with is missing; one of another version is warned of.
    """
    from rlhf_plugins.contract.rows import Group
    from rlhf_plugins.data.tokens import samples_of
    from rlhf_plugins.engine.loading import load_row_encoder
    from rlhf_plugins.reward_models.judges import open_judge, saved_base

    path = Path(folder)
    judge = open_judge(path, opener(path), trust_remote_code)
    encoder = load_row_encoder(saved_base(path, trust_remote_code))

    def reward(prompts: Sequence[Text], completions: Sequence[Text], **_: Any) -> list[float]:
        groups = [Group(p, (_alike(p, c),)) for p, c in zip(prompts, completions, strict=True)]
        return judge(samples_of(groups, encoder)).reward.tolist() if groups else []

    whole = path.resolve()
    reward.__name__ = whole.parent.name if whole.name == "model" else whole.name
    return reward


def _alike(prompt: Text, completion: Text) -> Text:
    if isinstance(prompt, str) != isinstance(completion, str):
        raise DataError("a prompt and its completion must both be text or both be messages")
    return completion
