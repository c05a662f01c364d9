"""The public API: what plugins and scripts import. torch and the like are imported when a name first needs them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.checkpoint import Checkpoint
from rlhf_plugins.contract.component import Component, Earlier, trait, uses
from rlhf_plugins.contract.handles import Policy, RewardModel
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import (
    KL,
    Advantage,
    Aggregation,
    KLEstimator,
    Metric,
    PolicyLoss,
    Pooling,
    PreferenceLoss,
    Reduction,
    RewardHead,
    RewardLoss,
    Sampler,
    Shaping,
)
from rlhf_plugins.contract.on_disk import OnDisk
from rlhf_plugins.contract.records import (
    Compared,
    MemberScores,
    PairLogps,
    Prediction,
    RankedScores,
    SamplerState,
    ScoredPairs,
    Verdict,
)
from rlhf_plugins.contract.rollout import Advantages, KLTerm, Rollout, ScoredResponses
from rlhf_plugins.contract.rows import Comparison, Data, Group, Origin, Samples
from rlhf_plugins.contract.run import (
    Adapter,
    Alarm,
    Base,
    Budget,
    Chat,
    Cost,
    Curve,
    Evaluation,
    Lengths,
    ReportParts,
    Run,
    Section,
    StageResult,
    Step,
    Weights,
)
from rlhf_plugins.contract.run_kinds import (
    DataFormat,
    DataStep,
    Environment,
    Generator,
    Judge,
    Monitor,
    Regularizer,
    Reward,
    Selector,
    Stage,
    Task,
)
from rlhf_plugins.contract.selection import Choice, Features, Resources, Situation
from rlhf_plugins.contract.workload import Course, Kept, Known, Work, Workload
from rlhf_plugins.errors import (
    ComponentError,
    DataError,
    PluginError,
    RecipeError,
    RewardUnavailable,
    RlhfError,
    RunError,
    RunInUse,
    StopRun,
    nearest,
    nearest_path,
)
from rlhf_plugins.registry.registry import registry

if TYPE_CHECKING:
    from rlhf_plugins.arithmetic.intervals import mean_interval, ratio_interval, wilson_interval
    from rlhf_plugins.arithmetic.p_values import holm, sign_test
    from rlhf_plugins.contract.carry import Carry
    from rlhf_plugins.data.batches.groups import best_response
    from rlhf_plugins.data.convert import strict_pairs
    from rlhf_plugins.data.measures.features import features
    from rlhf_plugins.data.store import load_data
    from rlhf_plugins.data.turns import as_response
    from rlhf_plugins.engine import set_engine
    from rlhf_plugins.engine.mixture import mix
    from rlhf_plugins.engine.weights.loading import cut_off
    from rlhf_plugins.forecast.forecast import estimate
    from rlhf_plugins.recipe.check import check_recipe, with_overrides
    from rlhf_plugins.recipe.public import component, read_options, read_yaml, recipe_digest
    from rlhf_plugins.reward_models.handle import fitting
    from rlhf_plugins.run.files.record import RunRecord, open_run
    from rlhf_plugins.run.run import run_recipe
    from rlhf_plugins.run.session import session
    from rlhf_plugins.saved.interchange import export_reward_model
    from rlhf_plugins.saved.reload import load_policy, load_reward_function, load_reward_model
    from rlhf_plugins.trainers.online.trainer import OnlineTrainer
    from rlhf_plugins.trainers.ppo.config import OnlineConfig
    from rlhf_plugins.trainers.ppo.options import Exploration, Value
    from rlhf_plugins.trainers.preference.trainer import PreferenceTrainer
    from rlhf_plugins.trainers.reward.trainer import RewardTrainer

__all__ = [
    "Adapter",
    "Advantage",
    "Advantages",
    "Aggregation",
    "Alarm",
    "Base",
    "Budget",
    "Carry",
    "Chat",
    "Checkpoint",
    "Choice",
    "Compared",
    "Comparison",
    "Component",
    "ComponentError",
    "Cost",
    "Course",
    "Curve",
    "Data",
    "DataError",
    "DataFormat",
    "DataStep",
    "Earlier",
    "Environment",
    "Evaluation",
    "Exploration",
    "Features",
    "Generator",
    "Group",
    "Judge",
    "KL",
    "KLEstimator",
    "KLTerm",
    "Kept",
    "Known",
    "Lengths",
    "MemberScores",
    "Metric",
    "Monitor",
    "OnDisk",
    "OnlineConfig",
    "OnlineTrainer",
    "Origin",
    "PairLogps",
    "PluginError",
    "Policy",
    "PolicyLoss",
    "Pooling",
    "Prediction",
    "PreferenceLoss",
    "PreferenceTrainer",
    "RankedScores",
    "RecipeError",
    "Reduction",
    "Regularizer",
    "ReportParts",
    "Resources",
    "Reward",
    "RewardHead",
    "RewardLoss",
    "RewardModel",
    "RewardTrainer",
    "RewardUnavailable",
    "RlhfError",
    "Rollout",
    "Run",
    "RunError",
    "RunInUse",
    "RunRecord",
    "Sampler",
    "SamplerState",
    "Samples",
    "ScoredPairs",
    "ScoredResponses",
    "Section",
    "Selector",
    "Shaping",
    "Situation",
    "Stage",
    "StageResult",
    "Step",
    "StopRun",
    "Task",
    "Value",
    "Verdict",
    "Weights",
    "Work",
    "Workload",
    "as_response",
    "best_response",
    "check_recipe",
    "component",
    "cut_off",
    "estimate",
    "export_reward_model",
    "features",
    "fitting",
    "holm",
    "hookimpl",
    "load_data",
    "load_policy",
    "load_reward_function",
    "load_reward_model",
    "mean_interval",
    "mix",
    "nearest",
    "nearest_path",
    "open_run",
    "ratio_interval",
    "read_options",
    "read_yaml",
    "recipe_digest",
    "registry",
    "run_recipe",
    "session",
    "set_engine",
    "sign_test",
    "strict_pairs",
    "trait",
    "uses",
    "wilson_interval",
    "with_overrides",
]

_LAZY = {  # a module: the names of which the first that is used imports it
    "arithmetic.intervals": ("mean_interval", "ratio_interval", "wilson_interval"),
    "arithmetic.p_values": ("holm", "sign_test"),
    "contract.carry": ("Carry",),
    "data.batches.groups": ("best_response",),
    "data.convert": ("strict_pairs",),
    "data.measures.features": ("features",),
    "data.store": ("load_data",),
    "data.turns": ("as_response",),
    "engine": ("set_engine",),
    "engine.mixture": ("mix",),
    "engine.weights.loading": ("cut_off",),
    "forecast.forecast": ("estimate",),
    "recipe.check": ("check_recipe", "with_overrides"),
    "recipe.public": ("component", "read_options", "read_yaml", "recipe_digest"),
    "reward_models.handle": ("fitting",),
    "run.files.record": ("RunRecord", "open_run"),
    "run.run": ("run_recipe",),
    "run.session": ("session",),
    "saved.interchange": ("export_reward_model",),
    "saved.reload": ("load_policy", "load_reward_function", "load_reward_model"),
    "trainers.online.trainer": ("OnlineTrainer",),
    "trainers.ppo.config": ("OnlineConfig",),
    "trainers.ppo.options": ("Exploration", "Value"),
    "trainers.preference.trainer": ("PreferenceTrainer",),
    "trainers.reward.trainer": ("RewardTrainer",),
}
_MODULES = {name: f"{__name__}.{module}" for module, names in _LAZY.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
