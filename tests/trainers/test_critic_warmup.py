"""The first steps of a training with a critic, in which it learns alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from marks import slow
from transformers import TrainerCallback

from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.errors import PluginError, RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.trainers.online.trainer import OnlineTrainer
from rlhf_plugins.trainers.ppo.options import Value

from .online_parts import Bases, logged, objective, trainer

NETWORKS: dict[str, dict[str, Any]] = {"shared": {}, "adapter": {"adapter": Adapter(r=2)}, "own": {"network": "own"}}


class Noted(TrainerCallback):
    """The bytes of all weights after each step, those of the critic apart."""

    def __init__(self, found: OnlineTrainer) -> None:
        self._found, self.policy, self.critic = found, [self._bytes(found, False)], [self._bytes(found, True)]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.policy.append(self._bytes(self._found, False))
        self.critic.append(self._bytes(self._found, True))

    @staticmethod
    def _bytes(found: OnlineTrainer, of_critic: bool) -> bytes:
        own = set(found.value_weights)
        some = (p for name, p in found.model.named_parameters() if (name in own or "beside_" in name) == of_critic)
        return b"".join(p.detach().contiguous().numpy().tobytes() for p in some)


def noted(found: OnlineTrainer) -> Noted:
    made = Noted(found)
    found.add_callback(made)
    found.train()
    return made


CASES: list[Any] = [("shared", {"max_grad_norm": 0.0}), ("own", {"adapter": False}), ("adapter", {"weight_decay": 0.1})]


@pytest.mark.parametrize(("network", "options"), [("adapter", {}), *slow(*CASES)])
def test_no_bit_of_the_policy_changes_in_the_first_steps(
    bases: Bases, tmp_path: Path, network: str, options: dict[str, Any]
) -> None:
    aim = objective(value=Value(**NETWORKS[network], warmup_steps=3))
    found = noted(trainer(bases(), tmp_path, aim, num_iterations=2, max_steps=6, **options))
    assert [one == found.policy[0] for one in found.policy] == [True] * 4 + [False] * 3
    assert len(set(found.critic)) == 7  # it learns in each


def test_the_norm_that_is_cut_is_the_critics_alone(bases: Bases, tmp_path: Path) -> None:
    """A policy loss a thousand times as large would leave it a thousandth of its gradient."""
    heads = []
    for coef in (0.0, 1e3):
        aim = objective(value=Value(adapter=Adapter(r=2), warmup_steps=1), entropy_coef=coef)
        found = trainer(bases(), tmp_path, aim, max_steps=2, max_grad_norm=1e-3, optim="sgd")
        found.train()
        heads.append(logged(found, "grad_norm")[0])
    assert heads[0] == heads[1] > 0


def test_a_coefficient_of_the_kl_does_not_follow_a_policy_that_is_held(bases: Bases, tmp_path: Path) -> None:
    kl = {"use": "in_reward", "coef": 0.5, "adapt": {"target": 6.0, "horizon": 100}}
    aim = objective(kl=kl, value=Value(warmup_steps=4))
    found = trainer(bases(), tmp_path, aim, max_steps=8)  # a rollout for two steps each
    found.train()
    coefs = logged(found, "kl_coef")
    assert coefs[:3] == [0.5, 0.5, 0.5]
    assert coefs[3] < 0.5


def test_steps_without_any_for_the_policy_are_refused(bases: Bases, tmp_path: Path) -> None:
    why = "value.warmup_steps: 4, but of 4 steps none is left for the policy; write fewer"
    words = {"use": "online", "reward": "gold", "value": {"warmup_steps": 4}, "trainer": {"max_steps": 4}}
    with pytest.raises(PluginError, match=why):
        component("stage", words)
    found = trainer(bases(), tmp_path, objective(value=Value(warmup_steps=6)), max_steps=-1, num_train_epochs=1)
    with pytest.raises(RunError, match="value.warmup_steps: 6, but of 6 steps none is left"):
        found.train()


def test_an_optimizer_that_steps_within_the_backward_pass_is_refused(bases: Bases, tmp_path: Path) -> None:
    aim = objective(value=Value(warmup_steps=1))
    with pytest.raises(RunError, match="value.warmup_steps: .* steps within the backward pass"):
        trainer(bases(), tmp_path, aim, optim="lomo")
