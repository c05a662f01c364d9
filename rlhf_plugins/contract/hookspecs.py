"""The hooks that a plugin may implement; it knows no implementation, and docs/plugins.md shows them at work.

`register_...` takes nothing and returns `{lower_case_name: component class}`, or commands. A hook of a run's life may
leave out arguments, and `@hookimpl(tryfirst=True)` or `trylast` puts it in order.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from rlhf_plugins.contract import interfaces, rollout

PROJECT, COMMANDS = "rlhf_plugins", "rlhf_plugins.commands"  # groups of entry points; the second adds commands
API_VERSION = 1  # rises when a plugin that ran may run no longer
hookspec, hookimpl = pluggy.HookspecMarker(PROJECT), pluggy.HookimplMarker(PROJECT)


@hookspec
def register_pooling() -> dict[str, type[interfaces.Pooling]]:  # type: ignore[empty-body]
    """How a reward model turns hidden states into one feature vector."""


@hookspec
def register_reward_head() -> dict[str, type[interfaces.RewardHead]]:  # type: ignore[empty-body]
    """What a reward model predicts from the feature vector."""


@hookspec
def register_reward_loss() -> dict[str, type[interfaces.RewardLoss]]:  # type: ignore[empty-body]
    """What a reward model is trained to minimise, per group."""


@hookspec
def register_sampler() -> dict[str, type[interfaces.Sampler]]:  # type: ignore[empty-body]
    """In which order a reward model sees its examples."""


@hookspec
def register_aggregation() -> dict[str, type[interfaces.Aggregation]]:  # type: ignore[empty-body]
    """How the rewards of an ensemble's members become one."""


@hookspec
def register_preference_loss() -> dict[str, type[interfaces.PreferenceLoss]]:  # type: ignore[empty-body]
    """What a policy is trained to minimise on preference pairs, per pair."""


@hookspec
def register_advantage() -> dict[str, type[rollout.Advantage]]:  # type: ignore[empty-body]
    """How the advantage of each sampled token is estimated."""


@hookspec
def register_policy_loss() -> dict[str, type[rollout.PolicyLoss]]:  # type: ignore[empty-body]
    """What a policy is trained to minimise on its own samples, per token."""


@hookspec
def register_reduction() -> dict[str, type[rollout.Reduction]]:  # type: ignore[empty-body]
    """How the losses of sampled tokens become one number."""


@hookspec
def register_kl() -> dict[str, type[rollout.KL]]:  # type: ignore[empty-body]
    """Where the pull towards the reference acts, and how strongly."""


@hookspec
def register_kl_estimator() -> dict[str, type[rollout.KLEstimator]]:  # type: ignore[empty-body]
    """How the KL to the reference is estimated from sampled tokens."""


@hookspec
def register_shaping() -> dict[str, type[rollout.Shaping]]:  # type: ignore[empty-body]
    """What is done to rewards before the policy learns from them."""


@hookspec
def register_reward() -> dict[str, type[interfaces.Reward]]:  # type: ignore[empty-body]
    """What scores a rollout."""


@hookspec
def register_data_format() -> dict[str, type[interfaces.DataFormat]]:  # type: ignore[empty-body]
    """Where preferences come from and how they are written down."""


@hookspec
def register_metric() -> dict[str, type[interfaces.Metric]]:  # type: ignore[empty-body]
    """How a reward model is measured on held-out pairs."""


@hookspec
def register_stage() -> dict[str, type[interfaces.Stage]]:  # type: ignore[empty-body]
    """What a recipe can run."""


@hookspec
def register_commands() -> dict[str, Any]:  # type: ignore[empty-body]
    """Commands of `rlhf`: functions as typer takes them, or whole typer apps. Its module imports nothing heavy."""


@hookspec
def run_started(folder: Path, recipe: dict[str, Any]) -> None:
    """A run begins, or goes on; its folder says which stages are finished. StopRun keeps it from doing so."""


@hookspec
def step_logged(folder: Path, stage: str, step: int, values: dict[str, float]) -> None:
    """A stage logged numbers at a step. StopRun stops the run."""


@hookspec
def run_finished(folder: Path, status: str) -> None:
    """A run ended: it is `finished`, `failed` or `interrupted`."""
