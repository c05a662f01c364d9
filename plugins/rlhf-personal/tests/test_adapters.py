"""Adapters of users: the step of meta-learning by hand, the prior, and the way from rows to each user's reward."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rlhf_personal.adapting import Adaptable, Fit, added, moved
from torch import tensor

from rlhf_plugins import Comparison, DataError, Group, RunError, component
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

PAIRS = tiny_pairs(8)
POOLED = {"max_steps": 6, "learning_rate": 0.01, "disable_tqdm": True, "per_device_train_batch_size": 8}
FEW = {"rank": 2, "rounds": 1, "users": 2, "judgements": 4, "steps": 14, "learning_rate": 0.05, "strength": 0.01}


def of_user(user: int, groups: tuple[Group, ...] = PAIRS) -> list[Group]:
    """User 0 judges as the rows do, user 1 the other way round."""
    return [replace(group, ranks=(user, 1 - user), columns={"user": user}) for group in groups]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run with a reward model of both users' rows, and their adapters."""
    folder = tmp_path_factory.mktemp("adapters")
    base, rows = tiny_base(folder / "base"), [*of_user(0), *of_user(0), *of_user(1)]
    model = component("stage", "reward_model", trainer=POOLED).run(tiny_run(base, folder / "pooled", rows))
    run = tiny_run(base, folder / "run", rows, [replace(model, name="reward_model")])
    run = replace(run, data=replace(run.data, test=(*of_user(0), *of_user(1))))
    made = component("stage", "adapters", **FEW).run(run)
    return tiny_run(base, folder / "later", rows, [*run.finished, replace(made, name="adapters")])


@pytest.fixture
def adaptable(taught: Any) -> Adaptable:
    return Adaptable(taught.reward("reward_model"), 2)


def test_meta_learning_by_hand() -> None:
    """1 + 1/2 * (2 + 4) / 2 = 2.5; with two users at +1 and -1 it stays."""
    assert moved({"w": tensor([1.0])}, [{"w": tensor([2.0])}, {"w": tensor([4.0])}], 0.5)["w"].item() == 2.5
    assert moved({"w": tensor([0.0])}, [{"w": tensor([1.0])}, {"w": tensor([-1.0])}], 0.5)["w"].item() == 0


def test_an_adapter_starts_as_the_reward_model(taught: Any, adaptable: Adaptable) -> None:
    model = taught.reward("reward_model")
    rewards = model.predict(
        model.encode([g.prompt for g in PAIRS for _ in "ab"], [r for g in PAIRS for r in g.responses])
    )
    torch.testing.assert_close(adaptable.gaps(PAIRS), rewards.reward[::2] - rewards.reward[1::2])
    assert all(not delta.any() for delta in adaptable.fitted(adaptable.theta, [], Fit()).values())


def test_the_first_step_by_hand(adaptable: Adaptable) -> None:
    """Adam's first step is its rate in each weight with a gradient, against its sign; A has none while B is 0."""
    start = adaptable.theta
    delta = adaptable.fitted(start, PAIRS, Fit(steps=1, learning_rate=0.01))
    assert all(not delta[name].any() for name in delta if "lora_A" in name)
    torch.testing.assert_close(
        delta["head.weight"].abs(), torch.full_like(delta["head.weight"], 0.01), rtol=1e-3, atol=0
    )
    before, after = adaptable_loss(adaptable, start), adaptable_loss(adaptable, added(start, delta))
    assert after < before


def test_a_soft_label_is_learned_as_one(adaptable: Adaptable) -> None:
    """p = 0.1 says that the second is better: Adam's first step goes the other way. A long gap is far above 0.1."""
    sure, start = PAIRS[:1], adaptable.theta
    soft = [Group(pair.prompt, pair.responses, compared=(Comparison(0, 1, probability=0.1),)) for pair in sure]
    one, other = (adaptable.fitted(start, pairs, Fit(1, 0.01))["head.weight"] for pairs in (sure, soft))
    torch.testing.assert_close(one, -other)


def adaptable_loss(model: Adaptable, theta: Any) -> float:
    model.put(theta)
    return float(torch.nn.functional.softplus(-model.gaps(PAIRS)).mean())


@pytest.mark.slow
def test_a_strong_prior_keeps_delta_small(adaptable: Adaptable) -> None:
    start = adaptable.theta
    deltas = [adaptable.fitted(start, PAIRS, Fit(10, 0.01, strength)) for strength in (0.0, 1e3)]
    free, held = (sum(float(each.square().sum()) for each in delta.values()) for delta in deltas)
    assert held < free / 4


def right(reward: Any, run: Any, like: int, **columns: Any) -> float:
    """The share of pairs that a reward orders as a user does."""
    encode = run.reward("reward_model").encode
    samples = encode([g.prompt for g in PAIRS for _ in "ab"], [r for g in PAIRS for r in g.responses])
    given = replace(samples, columns={name: [value] * 2 * len(PAIRS) for name, value in columns.items()})
    gaps = reward(given).reward.view(-1, 2) @ tensor([1.0, -1.0])
    return float(((gaps > 0) == (like == 0)).float().mean())


def test_each_user_has_their_own_reward(taught: Any) -> None:
    numbers = taught.finished[-1].metrics
    assert numbers["theta_meta_+_delta"] > numbers["the_reward_model"] + 0.2
    reward = taught.reward()
    assert min(right(reward, taught, user, user=user) for user in (0, 1)) > 0.8
    assert right(reward, taught, 0, user=-1) > right(reward, taught, 0, user=1)
    for columns in ({}, {"user": 7}):
        with pytest.raises(DataError, match=r"should hold -1 or a user with an adapter \(0, 1\), got"):
            right(reward, taught, 0, **columns)


def test_a_new_user_is_fitted_from_the_learned_start(taught: Any, tmp_path: Path) -> None:
    file = tmp_path / "new.jsonl"
    rows = [{"prompt": g.prompt, "chosen": g.responses[1], "rejected": g.responses[0]} for g in PAIRS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judgements = {"format": "preference", "source": str(file)}
    assert right(component("reward", "personal", judgements=judgements).build(taught), taught, 1) > 0.8


def test_rows_without_a_user_and_other_files_are_refused(taught: Any, tmp_path: Path) -> None:
    run = replace(taught, data=replace(taught.data, train=PAIRS))
    with pytest.raises(DataError, match="the column `user` should hold a whole number from -1, got None"):
        component("stage", "adapters").run(run)
    (tmp_path / "adapters.safetensors").write_bytes(b"x")
    with pytest.raises(RunError, match="holds no adapters of users"):
        component("reward", "adapters", path=str(tmp_path), reward="gold").build(taught)
    assert component("reward", "adapters", path=f"{tmp_path}/x").missing() == {
        "path": f"{tmp_path}/x: holds no adapters of users"
    }
    kept = taught.finished[-1].rewards["adapters"]["path"]
    with pytest.raises(RunError, match="adapters: need a saved reward model that is no ensemble"):
        component("reward", "adapters", path=kept, reward="gold").build(taught)
