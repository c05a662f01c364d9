"""Functions and objects that a script passes in place of components: their answers are checked too."""

from __future__ import annotations

from typing import Any

from rlhf_plugins.contract.guards import Built
from rlhf_plugins.contract.run_kinds import Environment, EnvironmentFunction, Reward, RewardFunction
from rlhf_plugins.errors import RunError
from rlhf_plugins.reward_models.handle import RewardHandle, reward_handle


class _NoRun:
    """Takes the place of a recipe's run in a script, which has none: every use of it is an error."""

    def __init__(self, keyword: str, instead: str) -> None:
        self._keyword, self._instead = keyword, instead

    def __getattr__(self, name: str) -> Any:
        raise RunError(
            f"{self._keyword}= reads `{name}` of a recipe's run, and a script has none: give {self._instead}"
        )


class _GivenReward(Reward):
    """A function as a component."""

    def __init__(self, function: RewardFunction) -> None:
        self._function = function

    def build(self, run: Any) -> RewardFunction:
        return self._function


class _GivenEnvironment(Environment):
    """A function as a component."""

    def __init__(self, function: EnvironmentFunction) -> None:
        self._function = function

    def build(self, run: Any) -> EnvironmentFunction:
        return self._function


def handle_of(reward: Any) -> RewardHandle:
    """A component or a function of samples as what a rollout asks. Raises RunError for anything else."""
    if isinstance(reward, RewardHandle):
        return reward
    if not isinstance(reward, Reward) and not callable(reward):
        raise RunError(f"reward= takes a component of the kind reward or a function, not a {type(reward).__name__}")
    run = _NoRun("reward", "a function of samples, such as load_reward_function() opens")
    return reward_handle((reward if isinstance(reward, Reward) else _GivenReward(reward)).build(run))


def environment_of(environment: Any) -> EnvironmentFunction:
    """A component or a function of samples as what a conversation asks. Raises RunError for anything else."""
    if isinstance(environment, Built):
        return environment
    if isinstance(environment, Environment):
        return environment.build(_NoRun("environment", "a function of samples"))
    if not callable(environment):
        kinds = "a component of the kind environment or a function"
        raise RunError(f"environment= takes {kinds}, not a {type(environment).__name__}")
    return _GivenEnvironment(environment).build(None)
