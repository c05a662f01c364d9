"""A component that others hold is blamed for its own faults, at any depth, and not those that hold it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from marks import slow

from rlhf_plugins import Prediction, RankedScores
from rlhf_plugins.arithmetic.ranking import per_group
from rlhf_plugins.contract import guards
from rlhf_plugins.errors import ComponentError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.registry.registry import registry
from rlhf_plugins.run.replay import replay, save

PART = """\
from dataclasses import dataclass
from torch import nn
import rlhf_plugins as api
from rlhf_plugins import hookimpl

class Module(nn.Linear):
    def forward(self, features):
        answer = super().forward(features)[:, 0]
        return FAULT

@dataclass(frozen=True)
class Loss(api.RewardLoss):
    def __call__(self, scores):
        answer = scores.rejected - scores.chosen
        return FAULT

@dataclass(frozen=True)
class Head(api.RewardHead):
    def build(self, width):
        return Module(width, 1)

@dataclass(frozen=True)
class Aggregation(api.Aggregation):
    def __call__(self, members):
        answer = members.rewards.mean(0)
        return FAULT

@dataclass(frozen=True)
class Estimator(api.KLEstimator):
    def __call__(self, log_ratio):
        answer = log_ratio**2 / 2
        return FAULT

@hookimpl
def register_reward_loss():
    return {"broken": Loss}

@hookimpl
def register_reward_head():
    return {"broken": Head}

@hookimpl
def register_aggregation():
    return {"broken": Aggregation}

@hookimpl
def register_kl_estimator():
    return {"broken": Estimator}
"""
FAULTS = {
    "answer / [0]": "failed: TypeError: unsupported operand",
    "answer[:1]": r"gave shape \(1,",
    "answer * float('nan')": "made nan of finite numbers",
    "answer.detach()": "gave numbers without a gradient",
}
TWO = {"dimensions": ["said", "sensitivity"], "losses": ["bradley_terry", "broken"]}
WHOLES: list[tuple[str, dict[str, Any]]] = [
    ("reward_loss", {"use": "weighted", "loss": "broken"}),
    ("reward_loss", {"use": "sum", "losses": ["bradley_terry", "broken"], "weights": [1, 1]}),
    ("reward_loss", {"use": "multi_task", **TWO}),
    ("reward_loss", {"use": "multi_task_uncertainty", **TWO}),
    ("reward_loss", {"use": "adversarial", "loss": "broken"}),  # of a package, as group_dro and sensitive are
    ("reward_loss", {"use": "group_dro", "loss": "broken"}),
    ("reward_head", {"use": "ensemble", "head": "broken"}),
    ("reward_head", {"use": "ensemble", "aggregation": "broken"}),
    ("reward_head", {"use": "sensitive", "head": "broken"}),
    ("kl", {"use": "in_loss", "estimator": "broken"}),
]


def pairs() -> RankedScores:
    said = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    dimensions = {"said": said * 2, "sensitivity": said * 3}
    return RankedScores.of(said, torch.zeros(2), prediction=Prediction(said, dimensions=dimensions))


def asked_of_loss(made: Any) -> None:
    per_group(made.acting(), pairs())


def asked_of_head(made: Any) -> None:
    made.build(3)(torch.ones(2, 3))


def asked_of_kl(made: Any) -> None:
    made(torch.ones(2, 3, requires_grad=True))


ASK = {"reward_loss": asked_of_loss, "reward_head": asked_of_head, "kl": asked_of_kl}


@pytest.mark.parametrize(("fault", "message"), [*[*FAULTS.items()][:2], *slow(*[*FAULTS.items()][2:])])
@pytest.mark.parametrize(("kind", "words"), WHOLES, ids=[words["use"] for _, words in WHOLES])
def test_a_part_that_fails_is_blamed_and_done_again_alone(
    kind: str, words: dict[str, Any], fault: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "part.py"
    file.write_text(PART.replace("FAULT", fault))
    known = registry().with_files([file])
    with pytest.raises(ComponentError, match=f"{message}.*part.py:") as caught:
        ASK[kind](component(kind, words, known))
    culprit = known.find(type(guards.maker(caught.value.call.component)))
    assert (culprit.name, culprit.plugin.name) == ("broken", "part.py")
    saved = save(caught.value, tmp_path, "", [str(file)], known)
    assert str(replay(saved, registry()).again) == str(caught.value)
