"""The public API: what a plugin and a script may import. It imports nothing heavy until asked."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import (
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
from rlhf_plugins.contract.rollout import Advantages, Pull, Rollout, Scored
from rlhf_plugins.errors import DataError, PluginError, RecipeError, RlhfError, RunError, StopRun
from rlhf_plugins.registry.registry import registry

if TYPE_CHECKING:
    from rlhf_plugins.contract.guards import asked, built, predicted
    from rlhf_plugins.engine import set_engine
    from rlhf_plugins.recipe.check import check_recipe, load_recipe
    from rlhf_plugins.run.run import run_recipe
    from rlhf_plugins.saved.interchange import export_reward_model
    from rlhf_plugins.saved.reload import load_reward_function, load_reward_model

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
    "set_engine",
    "uses",
]

_LAZY = {
    "asked": "rlhf_plugins.contract.guards",
    "built": "rlhf_plugins.contract.guards",
    "check_recipe": "rlhf_plugins.recipe.check",
    "export_reward_model": "rlhf_plugins.saved.interchange",
    "load_recipe": "rlhf_plugins.recipe.check",
    "load_reward_function": "rlhf_plugins.saved.reload",
    "load_reward_model": "rlhf_plugins.saved.reload",
    "predicted": "rlhf_plugins.contract.guards",
    "run_recipe": "rlhf_plugins.run.run",
    "set_engine": "rlhf_plugins.engine",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
