"""Rewards of users: the table and its prior by hand, a new user's weights, and the way from rows to their reward."""

from __future__ import annotations

import json
from dataclasses import replace
from math import e
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rlhf_personal.cold_start import Prior, most_likely
from rlhf_personal.head import Personal
from rlhf_personal.prior import NearShared
from torch import Tensor, nn, tensor

from rlhf_plugins import ComponentError, DataError, Group, RunError, check_recipe, component
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

FEW = {"max_steps": 60, "learning_rate": 0.1, "disable_tqdm": True, "per_device_train_batch_size": 8}
RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


def table() -> Any:
    """phi = h, w = (1, 2), delta_0 = (1, 0), delta_1 = (0, -3)."""
    made = Personal(users=2, rank=2).build(2)
    with torch.no_grad():
        made.basis.weight.copy_(torch.eye(2))
        made.shared.copy_(tensor([1.0, 2.0]))
        made.shift.copy_(tensor([[1.0, 0.0], [0.0, -3.0]]))
    return made


def test_the_reward_of_each_user_by_hand() -> None:
    """(2, 2) . (3, 5) = 16, (1, -1) . (3, 5) = -2, and (1, 2) . (3, 5) = 13 for a user without a row."""
    found = table()(tensor([[3.0, 5.0]] * 3), {"user": tensor([0.0, 1.0, -1.0])})
    assert found.reward.tolist() == [16.0, -2.0, 13.0]
    assert found.dimensions["basis_1"].tolist() == [5.0] * 3


@pytest.mark.parametrize("user", [2.0, -2.0, 0.5])
def test_a_user_outside_the_table_is_refused(user: float) -> None:
    with pytest.raises(DataError, match=f"user {user:g}: the head `personal` has users 0 to 1, and -1"):
        table()(tensor([[3.0, 5.0]]), {"user": tensor([user])})


def test_the_prior_of_the_table_by_hand() -> None:
    """0.5 / (2 * 2) * (1^2 + 3^2) = 1.25, with the slope 0.5 / 2 * delta."""
    model = nn.Sequential(table())
    penalty = NearShared(0.5).build(None, model)()  # type: ignore[arg-type]
    penalty.backward()
    assert penalty.item() == 1.25
    assert model[0].shift.grad.tolist() == [[0.25, 0.0], [0.0, -0.75]]
    with pytest.raises(RunError, match="needs `head: {use: personal"):
        NearShared().build(None, nn.Linear(1, 1))  # type: ignore[arg-type]


def test_the_prior_of_users_by_hand() -> None:
    """Weights 1 and 3: the mean 2 and the variance 2, on which 0.5 is put."""
    prior = Prior.of_users(tensor([[1.0], [3.0]]), least=0.5)
    assert (prior.mean.tolist(), prior.covariance.tolist()) == ([2.0], [[2.5]])


def test_one_judgement_by_hand() -> None:
    """1 - sigmoid(w) = w / S at the maximum: with S = 1 + e it is w = 1."""
    prior = Prior(tensor([0.0]), tensor([[1 + e]]))
    assert most_likely(tensor([[1.0]]), prior).item() == pytest.approx(1.0, abs=1e-6)
    assert most_likely(torch.zeros(0, 1), replace(prior, mean=tensor([0.7]))).item() == pytest.approx(0.7)
    flat = replace(prior, covariance=tensor([[1 / (1 / (1 + e) - 0.25)]]))  # 0.25 - sigmoid(-1) + 1 / v = 0
    assert most_likely(tensor([[1.0]]), flat, tensor([0.25])).item() == pytest.approx(-1.0, abs=1e-5)


@given(st.integers(0, 1000), st.integers(0, 40), st.floats(0.01, 30))
def test_the_slope_at_the_weights_is_0(seed: int, judged: int, size: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    d = size * torch.randn(judged, 3, generator=draw, dtype=torch.float64)
    half = torch.randn(3, 3, generator=draw, dtype=torch.float64)
    prior = Prior(half[0], half @ half.T + 0.1 * torch.eye(3))
    w = most_likely(d, prior)
    slope = d.T @ torch.sigmoid(-(d @ w)) - torch.linalg.solve(prior.covariance, w - prior.mean)
    assert slope.abs().max() < 1e-5 * (1 + size * judged)


def of_two(groups: tuple[Group, ...], users: tuple[int, ...] = (0, 1)) -> list[Group]:
    """Rows of user 0, and of user 1, who prefers what the other does not."""
    return [replace(g, ranks=(u, 1 - u), columns={"user": u}) for u in users for g in groups]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run, and a basis that it trained on two users."""
    folder = tmp_path_factory.mktemp("personal")
    base, rows = tiny_base(folder / "base"), of_two(tiny_pairs(16))
    run = tiny_run(base, folder / "run", rows)
    options = {"head": {"use": "personal", "users": 2, "rank": 2}, "regularizers": ["near_shared"]}
    made = component("stage", "reward_model", train_layers=0, trainer=FEW, **options).run(run)
    return tiny_run(base, folder / "later", rows, [replace(made, name="reward_model")])


def right(reward: Any, run: Any, like: int, **columns: Any) -> float:
    """The share of pairs, the first eight left out, that a reward orders as a user does."""
    pairs = tiny_pairs(16)[8:]
    encode = run.reward("reward_model").encode
    scores: list[Tensor] = []
    for side in (like, 1 - like):  # the better response, then the worse
        samples = encode([g.prompt for g in pairs], [g.responses[side] for g in pairs])
        scores.append(reward(replace(samples, columns={k: [v] * len(pairs) for k, v in columns.items()})).reward)
    return float((scores[0] > scores[1]).float().mean())


def test_users_who_disagree_have_rewards_of_their_own(trained: Any) -> None:
    model = trained.reward("reward_model")
    assert min(right(model, trained, user, user=user) for user in (0, 1)) > 0.7


@pytest.mark.parametrize("like", [0, 1])
def test_a_few_judgements_tell_whom_a_new_user_is_like(trained: Any, like: int, tmp_path: Path) -> None:
    file = tmp_path / "new.jsonl"
    rows = [{"prompt": g.prompt, "chosen": g.responses[like], "rejected": g.responses[1 - like]} for g in tiny_pairs(8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judgements = {"format": "preference", "source": str(file)}
    reward = component("reward", "personal", judgements=judgements).build(trained)
    assert right(reward, trained, like) > 0.7


def test_another_head_is_refused(trained: Any) -> None:
    reward = component("reward", "personal", judgements="sandbox", reward="gold")
    with pytest.raises((ComponentError, RunError), match="trained with `head: personal`"):
        reward.build(trained)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_the_shipped_recipe_is_sound_and_short(file: Path) -> None:
    assert check_recipe(file)["stages"]
    assert len(file.read_text().splitlines()) <= 40
