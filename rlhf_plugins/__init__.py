"""The public API: what a plugin and a script may import. It imports nothing heavy until asked."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlhf_plugins import autoclasses
from rlhf_plugins.errors import DataError, PluginError, RecipeError, RlhfError, RunError, StopRun
from rlhf_plugins.hookspecs import hookimpl
from rlhf_plugins.interfaces import (
    Adapter,
    Base,
    Compared,
    Comparison,
    Draw,
    Group,
    MemberScores,
    PairLogps,
    Prediction,
    PreferenceData,
    RankedScores,
    Run,
    Samples,
    ScoredPairs,
    StageResult,
    uses,
)
from rlhf_plugins.registry import registry
from rlhf_plugins.rollout import Advantages, Pull, Rollout, Scored

if TYPE_CHECKING:
    from rlhf_plugins.models.guards import asked, built, predicted
    from rlhf_plugins.recipe.check import check_recipe, load_recipe
    from rlhf_plugins.recipe.interchange import export_reward_model
    from rlhf_plugins.recipe.reload import load_reward_function, load_reward_model
    from rlhf_plugins.recipe.run import run_recipe

__all__ = [
    "Adapter",
    "Advantages",
    "Base",
    "Compared",
    "Comparison",
    "DataError",
    "Draw",
    "Group",
    "MemberScores",
    "PairLogps",
    "PluginError",
    "Prediction",
    "PreferenceData",
    "Pull",
    "RankedScores",
    "RecipeError",
    "RlhfError",
    "Rollout",
    "Run",
    "RunError",
    "Samples",
    "Scored",
    "ScoredPairs",
    "StageResult",
    "StopRun",
    "asked",
    "built",
    "check_recipe",
    "export_reward_model",
    "hookimpl",
    "load_recipe",
    "load_reward_function",
    "load_reward_model",
    "predicted",
    "registry",
    "run_recipe",
    "uses",
]

_LAZY = {
    "asked": "rlhf_plugins.models.guards",
    "built": "rlhf_plugins.models.guards",
    "check_recipe": "rlhf_plugins.recipe.check",
    "export_reward_model": "rlhf_plugins.recipe.interchange",
    "load_recipe": "rlhf_plugins.recipe.check",
    "load_reward_function": "rlhf_plugins.recipe.reload",
    "load_reward_model": "rlhf_plugins.recipe.reload",
    "predicted": "rlhf_plugins.models.guards",
    "run_recipe": "rlhf_plugins.recipe.run",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


autoclasses.install()
