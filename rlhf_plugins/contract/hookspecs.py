"""The hooks that a plugin may implement.

`register_...` takes nothing and returns `{lower_case_name: component class}`, or commands. A hook of a run's life may
leave out arguments, and `@hookimpl(tryfirst=True)` or `trylast` puts it in order.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from rlhf_plugins.contract import interfaces, run_kinds
    from rlhf_plugins.contract.component import Component
    from rlhf_plugins.contract.run import StageResult

PROJECT, COMMANDS = "rlhf_plugins", "rlhf_plugins.commands"  # groups of entry points; the second adds commands
API_VERSION = 2  # rises when a plugin that ran may run no longer
hookspec, hookimpl = pluggy.HookspecMarker(PROJECT), pluggy.HookimplMarker(PROJECT)


@hookspec
def register_pooling() -> dict[str, type[interfaces.Pooling]]:
    """How a reward model turns hidden states into one feature vector."""
    return {}


@hookspec
def register_reward_head() -> dict[str, type[interfaces.RewardHead]]:
    """What a reward model predicts from the feature vector."""
    return {}


@hookspec
def register_reward_loss() -> dict[str, type[interfaces.RewardLoss]]:
    """What a reward model is trained to minimise, per group."""
    return {}


@hookspec
def register_sampler() -> dict[str, type[interfaces.Sampler]]:
    """In which order a reward model sees its examples."""
    return {}


@hookspec
def register_aggregation() -> dict[str, type[interfaces.Aggregation]]:
    """How the rewards of an ensemble's members become one."""
    return {}


@hookspec
def register_preference_loss() -> dict[str, type[interfaces.PreferenceLoss]]:
    """What a policy is trained to minimise on preference pairs, per pair."""
    return {}


@hookspec
def register_advantage() -> dict[str, type[interfaces.Advantage]]:
    """How the advantage of each sampled token is estimated."""
    return {}


@hookspec
def register_policy_loss() -> dict[str, type[interfaces.PolicyLoss]]:
    """What a policy is trained to minimise on its own samples, per token."""
    return {}


@hookspec
def register_reduction() -> dict[str, type[interfaces.Reduction]]:
    """How the losses of sampled tokens become one number."""
    return {}


@hookspec
def register_kl() -> dict[str, type[interfaces.KL]]:
    """Where the KL term towards the reference enters, and how strong it is."""
    return {}


@hookspec
def register_kl_estimator() -> dict[str, type[interfaces.KLEstimator]]:
    """How the KL to the reference is estimated from sampled tokens."""
    return {}


@hookspec
def register_shaping() -> dict[str, type[interfaces.Shaping]]:
    """What is done to rewards before the policy learns from them."""
    return {}


@hookspec
def register_reward() -> dict[str, type[run_kinds.Reward]]:
    """What scores a rollout."""
    return {}


@hookspec
def register_data_format() -> dict[str, type[run_kinds.DataFormat]]:
    """Where preferences come from and how they are written down."""
    return {}


@hookspec
def register_data_step() -> dict[str, type[run_kinds.DataStep]]:
    """How loaded rows are selected, weighed and added to."""
    return {}


@hookspec
def register_metric() -> dict[str, type[interfaces.Metric]]:
    """How a reward model is measured on held-out pairs."""
    return {}


@hookspec
def register_stage() -> dict[str, type[run_kinds.Stage]]:
    """What a recipe can run."""
    return {}


@hookspec
def register_generator() -> dict[str, type[run_kinds.Generator]]:
    """What answers prompts: a trained policy, a mixture, a server."""
    return {}


@hookspec
def register_judge() -> dict[str, type[run_kinds.Judge]]:
    """What compares two responses to a prompt: a reward, a policy that is asked, a server."""
    return {}


@hookspec
def register_environment() -> dict[str, type[run_kinds.Environment]]:
    """What writes the other turns of a conversation: a function, a policy in a user's place."""
    return {}


@hookspec
def register_monitor() -> dict[str, type[run_kinds.Monitor]]:
    """What watches a training, and may stop or slow it."""
    return {}


@hookspec
def register_regularizer() -> dict[str, type[run_kinds.Regularizer]]:
    """What is added to the loss of a training, such as EWC."""
    return {}


@hookspec
def register_selector() -> dict[str, type[run_kinds.Selector]]:
    """What recommends an algorithm for data and resources."""
    return {}


@hookspec
def register_task() -> dict[str, type[run_kinds.Task]]:
    """What policies are measured on beside the judge: rows with right answers, what must not happen."""
    return {}


@hookspec
def register_kind() -> dict[str, type[Component]]:
    """New kinds by name: the base class of each, `class Rule(Component, kind="rule")`."""
    return {}


@hookspec
def register_components() -> dict[str, dict[str, type[Component]]]:
    """Components of kinds that other packages define: `{kind: {name: class}}`."""
    return {}


@hookspec
def register_commands() -> dict[str, Any]:
    """Commands of `rlhf`: functions as typer takes them, or whole typer apps. Its module imports nothing heavy."""
    return {}


@hookspec
def run_started(folder: Path, recipe: dict[str, Any]) -> None:
    """A run begins, or goes on; its folder says which stages are finished. StopRun keeps it from doing so."""


@hookspec
def stage_started(folder: Path, stage: str, total_steps: int | None) -> None:
    """A stage begins; `folder` is the stage's. StopRun keeps it from doing so.

    `total_steps` is about how many steps of the optimizer it will take; None: it takes none, or that is unknown.
    """


@hookspec
def step_logged(folder: Path, stage: str, step: int, values: dict[str, float]) -> None:
    """A stage logged numbers at a step. StopRun stops the run."""


@hookspec
def samples_logged(folder: Path, stage: str, step: int, rows: list[dict[str, Any]]) -> None:
    """A stage logged responses with their numbers, as they are in `samples.jsonl`."""


@hookspec
def stage_finished(folder: Path, result: StageResult) -> None:
    """A stage finished; `folder` is the stage's."""


@hookspec
def run_finished(folder: Path, status: str) -> None:
    """A run ended: it is `finished`, `failed` or `interrupted`."""
