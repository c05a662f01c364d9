"""Each belt closes where it should, says what happened at which step, and leaves the responses at fault."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.errors import ComponentError, RunError
from rlhf_plugins.trainers.belts import Guard
from rlhf_plugins.trainers.episodes import Episodes
from rlhf_plugins.trainers.online import OnlineTrainer
from rlhf_plugins.trainers.settings import Belts, Oversight

from .conftest import furthest, trained
from .online_parts import Bases, ants, curve, logged, objective, trainer


def episodes(**changes: Any) -> Episodes:
    """Three responses of two tokens with nothing wrong about them."""
    samples = Samples(["p"] * 3, ["a", "b", "c"], [[5]] * 3, [[3, 4]] * 3)
    two = torch.ones(3, 2)
    ordinary = Episodes(
        samples, tensor([1.0, 2.0, 3.0]), tensor([1.0, 2.0, 3.0]), False, 0.5 * two, two.bool(),
        0.1 * two, 2 * two, 0.5 * two, 0 * two, two, (),
    )  # fmt: skip
    return replace(ordinary, **changes)


def guard(folder: Path, **limits: Any) -> Guard:
    return Guard(Belts(**limits), folder, lambda: 7)


def saved(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "belts.jsonl").read_text().splitlines()]


def test_an_ordinary_rollout_is_trained_on(tmp_path: Path) -> None:
    assert guard(tmp_path).rollout(episodes())
    assert not list(tmp_path.iterdir())


def test_an_exploding_kl_stops(tmp_path: Path) -> None:
    """Means of 0.2, 0.3 and 6 nats a token are 6.5 / 3 together, just over a limit of 2.16."""
    far = episodes(log_ratio=tensor([[0.2, 0.2], [0.3, 0.3], [6.0, 6.0]]))
    assert guard(tmp_path, max_kl=2.17).rollout(far)
    with pytest.raises(RunError, match=r"step 7: the KL to the reference is 2\.17 nats per token: .*belts\.jsonl"):
        guard(tmp_path, max_kl=2.16).rollout(far)
    assert [(row["step"], row["belt"], row["response"]) for row in saved(tmp_path)][0] == (7, "kl", "c")  # the worst
    assert saved(tmp_path)[0]["kl"] == 6.0


def test_a_collapsing_entropy_stops(tmp_path: Path) -> None:
    held = guard(tmp_path, min_entropy=0.1)
    assert held.rollout(episodes(entropies=torch.full((3, 2), 2.0)))
    assert held.rollout(episodes(entropies=torch.full((3, 2), 0.21)))
    with pytest.raises(RunError, match=r"step 7: the entropy fell from 2 to 0\.19 nats per token: .*entropy_coef"):
        held.rollout(episodes(entropies=torch.full((3, 2), 0.19)))
    assert saved(tmp_path)[0]["entropy"] == pytest.approx(0.19)


def test_an_exploding_value_stops(tmp_path: Path) -> None:
    """The largest sum of rewards to come so far, |-1 - 0.5|, allows values up to 15."""
    held = guard(tmp_path, max_value=10.0)
    assert held.rollout(episodes(paid=tensor([[0.0, 0.0], [-1.0, -0.5], [0.5, 0.0]])))
    assert held.rollout(episodes(values=torch.full((3, 2), 14.9)))
    with pytest.raises(RunError, match=r"step 7: a value is 15\.1 where no sum of .* was larger than 1\.5: the critic"):
        held.rollout(episodes(values=tensor([[0.0, 0.0], [-15.1, 0.0], [1.0, 1.0]])))
    assert saved(tmp_path)[0]["response"] == "b"


def test_values_whose_own_estimates_grow_with_them_stop(tmp_path: Path) -> None:
    """Returns are values plus advantages, and say nothing about values."""
    with pytest.raises(RunError, match="step 7: a value is 1e"):
        guard(tmp_path).rollout(episodes(values=torch.full((3, 2), 1e6), returns=torch.full((3, 2), 9.1e5)))


def test_equal_rewards_are_skipped_and_then_stop(tmp_path: Path) -> None:
    held, equal = guard(tmp_path, equal_rewards=2), episodes(scores=tensor([2.0, 2.0, 2.0]))
    assert [held.rollout(e) for e in (equal, episodes(), equal, equal)] == [False, True, False, False]
    with pytest.raises(RunError, match="step 7: all 3 rewards are 2, for 3 rollouts in a row"):
        held.rollout(equal)
    assert guard(tmp_path).rollout(replace(equal, by_token=True))  # tokens may still differ


def test_a_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="step 7: the loss became nan: try a smaller learning_rate"):
        guard(tmp_path).loss(tensor(float("nan")), episodes(), [2, 0])
    assert [row["response"] for row in saved(tmp_path)] == ["c", "a"]


def test_a_skipped_rollout_changes_no_weight(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(), tmp_path, objective(lambda s: [1.0] * len(s.responses), shaping=[]), weight_decay=0.1)
    before = trained(found)
    assert curve(found, "skipped") == [1.0] * 6
    assert furthest(trained(found), before) == 0
    assert found.state.global_step == 6
    assert logged(found, "loss") == []
    assert len(logged(found, "reward")) == 3  # a rollout every two steps, as ever


def test_a_skipped_minibatch_does_not_pull_the_loss_down(bases: Bases, tmp_path: Path) -> None:
    """Whatever moves the policy at all ends a rollout: of each one's two minibatches the second is skipped."""
    options = {"learning_rate": 0.1, "max_steps": 4}
    each = trainer(bases(), tmp_path, objective(stop_kl=-1.0), **options)
    alone = curve(each, "loss")
    together = trainer(bases(), tmp_path, objective(stop_kl=-1.0), logging_steps=4, **options)
    assert curve(together, "loss") == [pytest.approx(sum(alone) / 2)]
    assert len(alone) == 2
    assert logged(each, "train_loss") == [pytest.approx(sum(alone) / 2)]
    assert logged(each, "skipped") == [0.0, 1.0, 0.0, 1.0]
    assert logged(together, "skipped") == [0.5]


class Broken(OnlineTrainer):
    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        with torch.no_grad():
            next(p for n, p in self.model.named_parameters() if "lora_B" in n).fill_(float("inf"))
        return super()._compute_loss(model, inputs)


def test_weights_that_become_infinite_stop_a_training_in_its_step(bases: Bases, tmp_path: Path) -> None:
    with pytest.raises((RunError, ComponentError), match="nan"):
        trainer(bases(), tmp_path, cls=Broken).train()


def test_a_policy_that_leaves_the_reference_is_stopped(bases: Bases, tmp_path: Path) -> None:
    free = objective(ants, kl={"use": "in_reward", "coef": 0.0})
    options = {"max_steps": 40, "learning_rate": 0.1, "oversight": Oversight(belts=Belts(max_kl=0.5))}
    with pytest.raises(RunError, match=r"the KL to the reference is .* nats per token"):
        trainer(bases(), tmp_path, free, **options).train()
    assert len(saved(tmp_path)) == 12
