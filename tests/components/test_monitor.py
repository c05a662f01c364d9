"""Each bundled monitor stops a training where it should, says how, and names the responses at fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Alarm, Step
from rlhf_plugins.recipe.assemble import component

THREE = Samples(["p"] * 3, ["a", "b", "c"], [[5]] * 3, [[3, 4]] * 3)
ORDINARY = {
    "entropy": 2.0,
    "equal_rewards": 0.0,
    "kl_per_token": 0.1,
    "largest_value": 0.5,
    "largest_reward_to_come": 1.0,
}
NAMES = ["entropy_floor", "equal_rewards", "kl_limit", "value_divergence"]


def watch(name: str, **options: Any) -> Callable[[Step], Alarm | None]:
    made: Callable[[Step], Alarm | None] = component("monitor", {"use": name, **options}).build(None)
    return made


def step(responses: Any = None, **values: float) -> Step:
    return Step("online", 7, 10, {**ORDINARY, **values}, THREE, responses=responses or {})


def worst(alarm: Alarm | None) -> dict[str, Any]:
    """The first response at fault of an alarm that stops."""
    assert alarm is not None
    assert alarm.action == "stop"
    first: dict[str, Any] = alarm.evidence["responses"][0]
    return first


@pytest.mark.parametrize("name", NAMES)
def test_an_ordinary_rollout_raises_no_alarm(name: str) -> None:
    assert watch(name)(step()) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_training_without_rollouts_raises_no_alarm(name: str) -> None:
    assert watch(name)(Step("sft", 7, 10, {"loss": 1.0, "entropy": 0.0})) is None


def test_an_exploding_kl_stops() -> None:
    far = step({"kl_per_token": [0.2, 0.3, 6.0]}, kl_per_token=6.5 / 3)
    assert watch("kl_limit", limit=2.17)(far) is None
    found = watch("kl_limit", limit=2.16)(far)
    assert worst(found) == {"prompt": "p", "response": "c", "kl_per_token": 6.0}
    assert "the KL to the reference is 2.17 nats per token: the policy has left it" in str(found)


def test_a_collapsing_entropy_stops() -> None:
    floor = watch("entropy_floor", share=0.1)
    assert floor(step(entropy=2.0)) is None
    assert floor(step(entropy=0.21)) is None
    found = floor(step({"entropy": [0.3, 0.1, 0.2]}, entropy=0.19))
    assert worst(found)["response"] == "b"
    assert "the entropy fell from 2 to 0.19 nats per token" in str(found)


def test_an_exploding_value_stops() -> None:
    """The largest sum of rewards to come so far, 1.5, allows values up to 15."""
    limit = watch("value_divergence", limit=10.0)
    assert limit(step(largest_reward_to_come=1.5)) is None
    assert limit(step(largest_value=14.9)) is None
    found = limit(step({"value": [0.0, 15.1, 1.0]}, largest_value=15.1))
    assert worst(found)["response"] == "b"
    assert "a value is 15.1 where no sum of rewards to come was larger than 1.5: the critic diverges" in str(found)


def test_equal_rewards_stop_after_some_rollouts_in_a_row() -> None:
    equal, other = step({"shaped_reward": [2.0] * 3}, equal_rewards=1.0), step()
    limit = watch("equal_rewards", limit=2)
    assert [limit(each) for each in (equal, other, equal, equal)] == [None] * 4
    found = limit(equal)
    assert worst(found)["shaped_reward"] == 2.0
    assert "all 3 rewards are 2, for 3 rollouts in a row" in str(found)


def test_equal_rewards_above_those_of_the_first_rollout_that_taught_end_the_training() -> None:
    watching = watch("equal_rewards", limit=0)
    assert watching(step(reward=1.0)) is None
    assert watching(step(reward=3.0)) is None
    actions = [watching(step({"shaped_reward": [2.0] * 3}, equal_rewards=1.0, reward=r)) for r in (1.5, 1.0, 0.5)]
    assert [alarm and alarm.action for alarm in actions] == ["end", "stop", "stop"]
    assert "nothing more can be learned from them; their mean rose from 1 to 1.5, and the training" in str(actions[0])


def test_rewards_that_equal_those_of_other_responses_to_their_prompts_stop_too() -> None:
    equal = step({"shaped_reward": [2.0, 1.0, 1.0]}, equal_rewards=1.0)
    found = str(watch("equal_rewards", limit=0)(equal))
    assert "none of 3 rewards differs from those of the other responses to its prompt, for 1" in found


def test_a_reward_that_abstains_on_everything_stops() -> None:
    nothing = Step("online", 7, 10, {"abstained": 12.0, "equal_rewards": 1.0})
    assert "the reward abstained on all, for 1 rollout in a row" in str(watch("equal_rewards", limit=0)(nothing))


@pytest.mark.parametrize("name", ["entropy_floor", "equal_rewards", "value_divergence"])
def test_a_monitor_goes_on_from_its_state(name: str) -> None:
    bad = step(entropy=0.0, equal_rewards=1.0, largest_value=14.0)
    first, second = (watch(name, **{"equal_rewards": {"limit": 1}}.get(name, {})) for _ in range(2))
    first(step(equal_rewards=1.0, largest_reward_to_come=2.0))
    second.load_state_dict(first.state_dict())  # type: ignore[attr-defined]
    assert bool(second(bad)) == bool(first(bad))
