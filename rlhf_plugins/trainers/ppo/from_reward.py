"""A critic's beginning: the adapter and the head of a reward model on the policy's base (Ouyang et al. 2022)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from peft import PeftConfig
from torch import Tensor

from rlhf_plugins.data.file_names import ADAPTER, REWARD_MODEL
from rlhf_plugins.engine.backbone import Backbone
from rlhf_plugins.engine.weights.base_paths import whole_path
from rlhf_plugins.errors import RunError
from rlhf_plugins.reward_models.reward_model import RewardModel, read_description


class Beginning(NamedTuple):
    """The name of the critic's adapter on the policy, and the weight of its head."""

    adapter: str
    weight: Tensor  # (1, width)


def begin_as(reward: Any, model: Any) -> Beginning:
    """Adds a copy of a reward model's adapter to the policy, to be trained.

    Args:
        reward: the handle of one that a stage saved, which scores the rollouts.
        model: the policy, with its adapter.

    Raises:
        RunError: the reward is no saved model on the policy's base with an adapter of its own, the last token's
            features and one linear output, or its adapter does not load.
    """
    found, folder = getattr(reward, "module", None), Path(getattr(reward, "label", ""))
    if not isinstance(found, RewardModel) or not (folder / REWARD_MODEL).is_file():
        _refuse("the reward is not one saved reward model")
    if not hasattr(model, "peft_config"):
        _refuse("the policy has no adapter, so that its base is trained itself")
    parts, policy = read_description(folder, trust_remote_code=False), model.config._name_or_path
    if whole_path(parts.base.path) != whole_path(policy):
        _refuse(f"{folder} was trained on {parts.base.path}, and the policy's base is {policy}")
    if not (folder / ADAPTER).is_file():
        _refuse(f"{folder} has no adapter")
    if getattr(PeftConfig.from_pretrained(str(folder)), "modules_to_save", None):
        _refuse(f"the adapter of {folder} trains modules whole, which PEFT would share with the policy")
    if (used := parts.pooling["use"]) != "last_token":
        _refuse(f"{folder} pools by {used}, and a value is read at each token: train it with pooling: last_token")
    if (used := parts.head["use"]) != "scalar":
        _refuse(f"the head of {folder} is {used}, and a value is one linear output: train it with head: scalar")
    head: Any = found.head
    return Beginning(Backbone(model, parts.base).load(folder, trainable=True), head.weight.detach())


def _refuse(why: str) -> NoReturn:
    raise RunError(f"value.start: reward: {why}; leave it out")
