"""The bundled monitors: limits on rewards, entropy, KL and values, beyond which a training stops.

They read the numbers of rollouts. Each names the responses at fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.run import Alarm
from rlhf_plugins.contract.run_kinds import Monitor

if TYPE_CHECKING:
    from rlhf_plugins.contract.run import Run, Step

Watch = Callable[["Step"], "Alarm | None"]


@dataclass(frozen=True)
class EqualRewards(Monitor, reads_rollouts=True):
    """Acts after more than `limit` rollouts in a row of which nothing can be learned: their rewards are all equal.

    Where they are above the mean reward of the first rollout that taught something, the task is solved: the training
    ends, and its policy is kept. Otherwise the stage fails.
    """

    limit: Annotated[int, Field(ge=0, description="rollouts in a row that may be skipped")] = 10

    def build(self, run: Run) -> Watch:
        """It counts rollouts."""
        return _EqualRewards(self.limit)


class _EqualRewards:
    def __init__(self, limit: int) -> None:
        self._limit, self._count = limit, 0
        self._first: float | None = None  # mean reward of the first rollout whose rewards differed

    def __call__(self, step: Step) -> Alarm | None:
        equal, reward = step.values.get("equal_rewards"), step.values.get("reward")
        if equal is None:
            return None
        self._count = self._count + 1 if equal else 0
        if not equal and self._first is None:
            self._first = reward
        if self._count <= self._limit:
            return None
        rewards = step.responses.get("shaped_reward", ())
        found = f"{_equal(rewards)}, for {self._count} rollout{'s' * (self._count > 1)} in a row: nothing"
        allows = "(`limit` of the monitor equal_rewards allows more)"
        if reward is not None and self._first is not None and reward > self._first:
            risen = f"their mean rose from {self._first:.4g} to {reward:.4g}, and the training ends here {allows}"
            return _alarm(f"{found} more can be learned from them; {risen}", step, range(len(rewards)), "end")
        advice = f"look at the reward, or sample at a higher temperature {allows}"
        return _alarm(f"{found} can be learned from them; {advice}", step, range(len(rewards)))

    def state_dict(self) -> dict[str, Any]:
        return {"count": self._count, "first": self._first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._count, self._first = state["count"], state["first"]


@dataclass(frozen=True)
class EntropyFloor(Monitor, reads_rollouts=True):
    """Stops when the policy's entropy per token falls below a share of that of the first rollout."""

    share: Annotated[float, Field(ge=0, lt=1, description="of the first rollout's entropy")] = 0.01

    def build(self, run: Run) -> Watch:
        """It remembers the entropy of the first rollout."""
        return _EntropyFloor(self.share)


class _EntropyFloor:
    def __init__(self, share: float) -> None:
        self._share = share
        self._first: float | None = None

    def __call__(self, step: Step) -> Alarm | None:
        entropy = step.values.get("entropy")
        if entropy is None or step.samples is None:  # other trainings log an entropy of their batches
            return None
        self._first = entropy if self._first is None else self._first
        if entropy >= self._share * self._first:
            return None
        message = (
            f"the entropy fell from {self._first:.3g} to {entropy:.3g} nats per token: the policy explores no more; "
            "try entropy_coef, a larger kl.coef or a smaller learning_rate (`share` of the monitor entropy_floor "
            "allows less)"
        )
        return _alarm(message, step, _sorted(step, "entropy"))

    def state_dict(self) -> dict[str, Any]:
        return {"first": self._first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._first = state["first"]


@dataclass(frozen=True)
class KLLimit(Monitor, reads_rollouts=True, watches="kl"):
    """Stops when the KL to the reference exceeds a limit."""

    limit: Annotated[float, Field(gt=0, description="nats per token")] = 5.0

    def build(self, run: Run) -> Watch:
        """It remembers nothing."""

        def watch(step: Step) -> Alarm | None:
            kl = step.values.get("kl_per_token")
            if kl is None or kl <= self.limit:
                return None
            message = (
                f"the KL to the reference is {kl:.3g} nats per token: the policy has left it; try a larger kl.coef or "
                "a smaller learning_rate (`limit` of the monitor kl_limit allows more)"
            )
            return _alarm(message, step, _sorted(step, "kl_per_token")[::-1])

        return watch


@dataclass(frozen=True)
class ValueDivergence(Monitor, reads_rollouts=True):
    """Stops when a value is much larger than every sum of rewards to come has been.

    An estimator's returns may grow with the values, so these are compared with the rewards themselves.
    """

    limit: Annotated[float, Field(gt=0, description="largest value over the largest sum of rewards to come so far")] = (
        10.0
    )

    def build(self, run: Run) -> Watch:
        """It remembers the largest sum of rewards."""
        return _ValueDivergence(self.limit)


class _ValueDivergence:
    def __init__(self, limit: float) -> None:
        self._limit, self._largest = limit, 0.0

    def __call__(self, step: Step) -> Alarm | None:
        self._largest = max(self._largest, step.values.get("largest_reward_to_come", 0.0))
        value = step.values.get("largest_value")
        if value is None or value <= self._limit * self._largest:
            return None
        message = (
            f"a value is {value:.3g} where no sum of rewards to come was larger than {self._largest:.3g}: the critic "
            "diverges; try a smaller learning_rate or value.clip, or value: {network: own} "
            "(`limit` of the monitor value_divergence allows more)"
        )
        return _alarm(message, step, _sorted(step, "value")[::-1])

    def state_dict(self) -> dict[str, Any]:
        return {"largest": self._largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._largest = state["largest"]


def _equal(rewards: Sequence[float]) -> str:
    if not len(rewards):
        return "the reward abstained on all"
    if len(set(rewards)) > 1:
        return f"none of {len(rewards)} rewards differs from those of the other responses to its prompt"
    return f"all {len(rewards)} rewards are {rewards[0]:.4g}"


def _sorted(step: Step, name: str) -> list[int]:
    """The places of the responses, that with the smallest number of this name first."""
    values = step.responses.get(name, ())
    return sorted(range(len(values)), key=lambda i: values[i])


def _alarm(message: str, step: Step, places: Any, action: Literal["stop", "end"] = "stop") -> Alarm:
    return Alarm(message, {"responses": step.shown(places)}, action=action)


@hookimpl
def register_monitor() -> dict[str, type]:
    """The bundled monitors."""
    return {
        "entropy_floor": EntropyFloor,
        "equal_rewards": EqualRewards,
        "kl_limit": KLLimit,
        "value_divergence": ValueDivergence,
    }
