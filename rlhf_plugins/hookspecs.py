"""The hooks that a plugin may implement, one a component kind; it knows no implementation.

Each hook takes nothing and returns `{name: component class}`. Names are lower-case words joined by underscores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from rlhf_plugins.interfaces import (
        Aggregation,
        DataFormat,
        Metric,
        Pooling,
        PreferenceLoss,
        Reward,
        RewardHead,
        RewardLoss,
        Sampler,
        Stage,
    )
    from rlhf_plugins.rollout import Advantage

PROJECT = "rlhf_plugins"
API_VERSION = 1  # rises when a plugin that ran may run no longer
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_pooling() -> dict[str, type[Pooling]]:  # type: ignore[empty-body]
    """How a reward model turns hidden states into one feature vector."""


@hookspec
def register_reward_head() -> dict[str, type[RewardHead]]:  # type: ignore[empty-body]
    """What a reward model predicts from the feature vector."""


@hookspec
def register_reward_loss() -> dict[str, type[RewardLoss]]:  # type: ignore[empty-body]
    """What a reward model is trained to minimise, per group."""


@hookspec
def register_sampler() -> dict[str, type[Sampler]]:  # type: ignore[empty-body]
    """In which order a reward model sees its examples."""


@hookspec
def register_aggregation() -> dict[str, type[Aggregation]]:  # type: ignore[empty-body]
    """How the rewards of an ensemble's members become one."""


@hookspec
def register_preference_loss() -> dict[str, type[PreferenceLoss]]:  # type: ignore[empty-body]
    """What a policy is trained to minimise on preference pairs, per pair."""


@hookspec
def register_advantage() -> dict[str, type[Advantage]]:  # type: ignore[empty-body]
    """How the advantage of each sampled token is estimated."""


@hookspec
def register_reward() -> dict[str, type[Reward]]:  # type: ignore[empty-body]
    """What scores a rollout."""


@hookspec
def register_data_format() -> dict[str, type[DataFormat]]:  # type: ignore[empty-body]
    """Where preferences come from and how they are written down."""


@hookspec
def register_metric() -> dict[str, type[Metric]]:  # type: ignore[empty-body]
    """How a reward model is measured on held-out pairs."""


@hookspec
def register_stage() -> dict[str, type[Stage]]:  # type: ignore[empty-body]
    """What a recipe can run."""
