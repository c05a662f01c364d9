"""A guest's head and loss that read columns of the rows: a reward for each user, from training to scoring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from rlhf_plugins import Base, DataError, Group, RankedScores, RunError, Samples, StageResult
from rlhf_plugins.arithmetic.ranking import per_group
from rlhf_plugins.contract.rows import Origin
from rlhf_plugins.data.batches.numeric import column_tensor
from rlhf_plugins.data.batches.ranked import ranked_rows
from rlhf_plugins.recipe import assemble
from rlhf_plugins.registry.registry import Registry, registry
from rlhf_plugins.reward_models.handle import RewardHandle
from rlhf_plugins.reward_models.opening import open_reward, pair_accuracy
from rlhf_plugins.reward_models.reward_model import open_reward_model
from rlhf_plugins.reward_models.score_cache import ScoreCache
from rlhf_plugins.run.stage.stage_run import Services
from rlhf_plugins.saved.interchange import classifier
from rlhf_plugins.testing import Subject, examine, properties_of, tiny_base, tiny_pairs, tiny_run

Make = Callable[..., Any]
FEW = {"max_steps": 30, "learning_rate": 0.03, "logging_steps": 1, "disable_tqdm": True}
GUEST = """
from dataclasses import dataclass

import torch
from torch import nn

from rlhf_plugins import RewardHead, RewardLoss, hookimpl


@dataclass(frozen=True)
class PerUser(RewardHead, columns={"user"}):
    def build(self, width):
        return Linear(width)


class Linear(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, width) / width)

    def forward(self, features, columns):
        assert (columns["user"].dtype, columns["user"].shape) == (features.dtype, features.shape[:1])
        return (features * self.weight[columns["user"].long()]).sum(1)


@dataclass(frozen=True)
class Costly(RewardLoss, columns={"cost"}):
    def __call__(self, scores):
        return -(scores.chosen - scores.rejected).sigmoid().log() * scores.columns["cost"]


@hookimpl
def register_reward_head():
    return {"per_user": PerUser}


@hookimpl
def register_reward_loss():
    return {"costly": Costly}
"""


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """The registry with a guest's head and loss."""
    file = tmp_path_factory.mktemp("guest") / "guest.py"
    file.write_text(GUEST)
    return registry().with_files([file])


@pytest.fixture(scope="module")
def component(guests: Registry) -> Make:
    return partial(assemble.component, registry=guests)


def of_two_users(groups: tuple[Group, ...]) -> list[Group]:
    """The second user prefers what the first does not."""
    first = [replace(group, columns={"user": 0, "cost": 2.0}) for group in groups]
    return first + [replace(group, ranks=(1, 0), columns={"user": 1, "cost": 0.5}) for group in groups]


@pytest.fixture(scope="module")
def folder(guests: Registry, component: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with a head for each user."""
    place = tmp_path_factory.mktemp("users")
    run = tiny_run(tiny_base(place / "base"), place / "run", of_two_users(tiny_pairs(8)))
    options = {"head": "per_user", "loss": "costly", "trainer": FEW, "train_layers": 0}
    component("stage", {"use": "reward", **options}).run(replace(run, services=Services(registry=guests)))
    return place / "run/model"


@pytest.fixture(scope="module")
def users(folder: Path, component: Make) -> RewardHandle:
    return open_reward(folder, component)


def asked(users: list[int], handle: RewardHandle, response: str = "ant bee cat dog") -> Samples:
    samples = handle.encode(["how\n"] * len(users), [response] * len(users))
    return replace(samples, columns={"user": users, "name": ["x"] * len(users)})


def test_each_user_has_a_reward(users: RewardHandle) -> None:
    reward = users.predict(asked([0, 1, 0], users)).reward
    assert_close(reward[0], reward[2])
    assert abs(reward[0] - reward[1]) > 0.01
    assert users.encoder is not None
    accuracy = pair_accuracy(users, of_two_users(tiny_pairs(8)), users.encoder)  # 1/2 for one reward for both
    assert accuracy is not None
    assert accuracy > 0.7


def test_a_missing_column_is_one_error(users: RewardHandle) -> None:
    with pytest.raises(DataError, match="the reward model's head reads the column 'user' of each row"):
        users.predict(users.encode(["how\n"], ["ant"]))


def test_a_cache_tells_users_apart(users: RewardHandle) -> None:
    cache = ScoreCache(None)
    first, second = cache.scores("m", asked([0, 1], users), lambda samples: users.predict(samples).reward.tolist())
    assert first != second
    cache.close()


def test_the_conformance_kit_gives_it_columns(guests: Registry) -> None:
    subject = Subject("reward_head", "per_user", guests.get("reward_head", "per_user"), {}, guests)
    for one in properties_of("reward_head", guests):
        if one.name in ("answers", "batch_mates", "gradcheck", "state_is_restored"):
            assert examine(subject, one) is None


def test_it_does_not_become_a_sequence_classifier(folder: Path, component: Make) -> None:
    with pytest.raises(RunError, match="head per_user reads columns of the rows"):
        classifier(open_reward_model(folder, component), {"use": "last_token"}, {"use": "per_user"})


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"users": 1}, r"f:3: has no column 'user' \(did you mean users"), ({"user": None}, "column 'user' is 'None'")],
)
def test_rows_without_a_number_are_refused_before_training(columns: dict[str, Any], message: str) -> None:
    groups = [replace(group, columns=columns, origin=Origin("f", 3)) for group in tiny_pairs(1)]
    with pytest.raises(DataError, match=message):
        ranked_rows(groups, lambda prompt, response: ([1], [2]), None, lambda group: True, {"user"})


def test_numbers_become_tensors_of_one_type() -> None:
    for values in ([1, 2**24], [1, 0.5], [True, False]):
        found = column_tensor("c", values)
        assert (found.dtype, found.tolist()) == (torch.float32, values)
    assert column_tensor("c", [[1, 2.0], [3, 4]]).shape == (2, 2)
    for wrong in ([1, "x"], [float("nan")], [[1], [1, 2]], [[]]):
        with pytest.raises(DataError, match="column 'c'"):
            column_tensor("c", wrong)


def test_a_pair_has_the_columns_of_its_group(component: Make) -> None:
    scores = RankedScores.of(tensor([[2.0, 0.0, 1.0]]), ranks=tensor([[0, 2, 1]]), columns={"cost": tensor([2.0])})
    losses = [0.1269280, 0.3132617, 0.3132617]  # log(1 + e^-d), d = 2, 1, 1
    assert per_group(component("reward_loss", "costly"), scores).item() == pytest.approx(2 * sum(losses) / 3)


def test_an_evaluation_gives_a_reward_the_columns_of_each_prompt(
    guests: Registry, folder: Path, component: Make, tmp_path: Path
) -> None:
    base = Base(str(folder.parents[1] / "base"))
    reward = StageResult(name="reward", rewards={"reward": {"use": "saved", "path": str(folder)}})
    run = tiny_run(base, tmp_path / "run", finished=[reward])
    test = tuple(of_two_users(tiny_pairs(2)))
    data = replace(
        run.data, test=test, prompts={"test": tuple(Group(g.prompt, columns=g.columns) for g in test)}, gold=None
    )
    run = replace(run, data=data, services=Services(registry=guests))
    options = {"best_of": 1, "ceiling": 2, "max_new_tokens": 2, "metrics": []}
    scores = component("stage", {"use": "evaluate", **options}).run(run).evaluation.scores["base"]
    assert len(scores) == 4
