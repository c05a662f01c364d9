"""A critic that begins as the reward model which scores the rollouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlhf_plugins.contract.run import Adapter, Base, StageResult
from rlhf_plugins.data.file_names import VALUE_HEAD
from rlhf_plugins.errors import PluginError, RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base
from rlhf_plugins.trainers.ppo.critic import ValueHead
from rlhf_plugins.trainers.ppo.options import Value
from rlhf_plugins.trainers.ppo.rollout import Experience, Rollouts

from .test_training_stages import online, reward, run_for

START = Value(start="reward")


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return replace(tiny_base(tmp_path / "base"), adapter=Adapter(r=4))


def judge(base: Base, folder: Path, **words: Any) -> StageResult:
    return replace(reward(), **words).run(run_for(base, folder))


def seen(monkeypatch: pytest.MonkeyPatch) -> list[Experience]:
    """The rollouts of a training."""
    found, own = list[Experience](), Rollouts.experience

    def noted(self: Rollouts, *given: Any) -> Experience:
        found.append(own(self, *given))
        return found[-1]

    monkeypatch.setattr(Rollouts, "experience", noted)
    return found


def test_its_first_values_are_the_rewards_of_what_was_written_so_far(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts, trained = seen(monkeypatch), judge(base, tmp_path / "reward")
    run = run_for(base, tmp_path / "ppo", trained)
    replace(online("model"), value=START).run(run)
    first = rollouts[0]
    assert first.values is not None
    longer = [row for row, ids in enumerate(first.samples.response_ids) if len(ids) > 1]
    before = first.samples.take(longer)
    before = replace(before, response_ids=[ids[:-1] for ids in before.response_ids])
    last = [first.values[row, len(first.samples.response_ids[row]) - 1] for row in longer]
    expected = run_for(base, tmp_path / "again", trained).reward()(before).reward
    torch.testing.assert_close(torch.stack(last), expected, rtol=1e-4, atol=1e-5)
    assert len(longer) > 2
    assert expected.std() > 1e-3


def test_it_is_trained_and_the_reward_model_is_not(base: Base, tmp_path: Path) -> None:
    trained = judge(base, tmp_path / "reward")
    folder = tmp_path / "reward" / "model"
    adapter = load_file(folder / "adapter_model.safetensors")
    replace(online("model"), value=START).run(run_for(base, tmp_path / "ppo", trained))
    saved = load_file(tmp_path / "ppo" / VALUE_HEAD)
    own = {name.split("model.")[-1]: weights for name, weights in saved.items() if "lora" in name}
    given = {name.split("model.")[-1]: weights for name, weights in adapter.items()}
    assert own.keys() == given.keys()
    gaps = [float((own[name] - given[name]).abs().max()) for name in own]
    assert 0 < max(gaps) < 0.1
    assert load_file(folder / "adapter_model.safetensors").keys() == adapter.keys()


def test_returns_do_not_move_what_has_begun() -> None:
    """They give it its unit: V = 2 h_1 - h_2 before and after."""
    head, hidden = ValueHead(2), torch.tensor([[1.0, 0.0], [0.5, 3.0]])
    head.begin(torch.tensor([[2.0, -1.0]]))
    head.learn(torch.tensor([4.0, 8.0, 12.0]))
    assert (float(head.mean), int(head.count)) == (8.0, 3)
    torch.testing.assert_close(head(hidden), torch.tensor([2.0, -2.0]))
    assert head.weight.abs().max() < 2.0  # in deviations of the returns


REFUSED: dict[str, dict[str, Any]] = {
    "pools by mean, and a value is read at each token": {"pooling": component("pooling", "mean")},
    "the head of .* is mlp, and a value is one linear output": {"head": component("reward_head", "mlp")},
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_reward_model_of_another_shape_is_refused(base: Base, tmp_path: Path, why: str) -> None:
    trained = judge(base, tmp_path / "reward", **REFUSED[why])
    with pytest.raises(RunError, match=f"value.start: reward: .*{why}.*; leave it out"):
        replace(online("model"), value=START).run(run_for(base, tmp_path / "ppo", trained))


def test_one_of_another_base_and_what_is_none_are_refused(base: Base, tmp_path: Path) -> None:
    other = replace(tiny_base(tmp_path / "other"), adapter=Adapter(r=4))
    trained = judge(other, tmp_path / "reward")
    with pytest.raises(RunError, match="was trained on .*other, and the policy's base is .*base; leave it out"):
        replace(online("model"), value=START).run(run_for(base, tmp_path / "ppo", trained))
    gold = replace(online(), value=START, reward=component("reward", "gold"))
    with pytest.raises(RunError, match="value.start: reward: the reward is not one saved reward model; leave it out"):
        gold.run(run_for(base, tmp_path / "gold"))
    whole = replace(base, adapter=None)
    with pytest.raises(RunError, match="value.start: reward: the policy has no adapter, so that its base is trained"):
        replace(online("model"), value=START).run(run_for(whole, tmp_path / "whole", judge(base, tmp_path / "same")))


def test_an_adapter_or_a_network_beside_it_is_refused() -> None:
    with pytest.raises(PluginError, match="start: reward brings the reward model's own adapter; leave `network` and"):
        component("stage", {"use": "online", "value": {"start": "reward", "adapter": {"r": 4}}})
    with pytest.raises(ValueError, match="value.start: needs the recipe's `adapter`, which is none; leave out one of"):
        replace(online("model"), value=START).fits(None)
    with pytest.raises(ValueError, match="carry: value: the critic begins as the reward model; leave out one of them"):
        replace(online("model"), value=START).keeping({"value"})


def test_in_shards_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_plugins.contract.processes.shards", lambda: True)
    for name, value in (("start", START), ("warmup_steps", Value(warmup_steps=2))):
        with pytest.raises(ValueError, match=f"value.{name}: was not tried where each process holds a part"):
            replace(online(), value=value).fits_processes(2)
