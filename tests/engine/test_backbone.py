"""Policy, reference and reward models on one base: each computes what it computes alone, and none disturbs another."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from handed import saved_policy
from torch import Tensor, tensor

from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Adapter, Base, Weights
from rlhf_plugins.engine.backbone import Backbone, add_adapter
from rlhf_plugins.engine.weights.loading import base_weights, load_causal, load_trunk, with_adapter
from rlhf_plugins.engine.weights.starting import load_start
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.opening import open_reward
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.testing import tiny_base

from .conftest import EOS

IDS = torch.tensor([[15, 16, 3, 4, 5, EOS]])
SAMPLES = Samples(["a", "a", "b"], list("wxy"), [[15], [15], [16]], [[3, 4, EOS], [9, EOS], [5, 6, 7, 8, EOS]])
WIDE = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}  # for blocks of 64 weights
PARTS = {"pooling": {"use": "last_token"}, "head": {"use": "scalar"}}
QUANTIZATIONS = pytest.mark.parametrize("quantization", [None, "nf4", "int8"])


def shaken(model: Any) -> Any:
    """The model with everything that is trained moved, so that no adapter is without effect."""
    for weights in filter(lambda p: p.requires_grad, model.parameters()):
        weights.data += 0.1 * torch.randn_like(weights)
    return model


def saved_reward(base: Base, folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    trunk = with_adapter(load_trunk(base), base.adapter, "FEATURE_EXTRACTION")
    model = shaken(RewardModel(trunk, component("pooling", "last_token"), component("reward_head", "scalar")))
    described = {name: value for name, value in asdict(base).items() if name != "trust_remote_code"}
    model.save(folder, {"base": described, **PARTS})
    return folder


def base_in(folder: Path, quantization: str | None = None) -> Base:
    return Base(tiny_base(folder, **WIDE).path, quantization, Adapter(r=4))


def policy_on(base: Base, **adapter: Any) -> tuple[Any, Backbone]:
    torch.manual_seed(7)
    model = shaken(with_adapter(load_causal(base), Adapter(r=2, **adapter), "CAUSAL_LM"))
    return model, Backbone(model, base)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(IDS).logits
    return found


@QUANTIZATIONS
def test_a_reward_model_on_the_policys_base_scores_as_it_does_alone(tmp_path: Path, quantization: str | None) -> None:
    base = base_in(tmp_path / "base", quantization)
    folder = saved_reward(base, tmp_path / "reward")
    alone = open_reward(folder, component)(SAMPLES).reward
    _, backbone = policy_on(base)
    beside = open_reward(folder, component, backbone=backbone)
    torch.testing.assert_close(beside(SAMPLES).reward, alone, rtol=1e-5, atol=1e-5)
    assert alone.std() > 0.01


@QUANTIZATIONS
@pytest.mark.parametrize("targets", ["all-linear", ["o_proj", "down_proj"]])
def test_the_policy_is_the_same_beside_a_reward_model(
    tmp_path: Path, quantization: str | None, targets: str | list[str]
) -> None:
    base = base_in(tmp_path / "base", quantization)
    folder = saved_reward(base, tmp_path / "reward")
    model, backbone = policy_on(base, target_modules=targets)
    before = logits(model)
    judge = open_reward(folder, component, backbone=backbone)
    judge(SAMPLES)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=0)


@QUANTIZATIONS
def test_the_reference_is_the_base_alone(tmp_path: Path, quantization: str | None) -> None:
    base = base_in(tmp_path / "base", quantization)
    model, backbone = policy_on(base)
    backbone.load(saved_reward(base, tmp_path / "reward"))
    with backbone.reference():
        found = logits(model)
    torch.testing.assert_close(found, logits(load_causal(base)), rtol=1e-5, atol=1e-5)


def state(model: Any) -> list[Any]:
    """All that a view might leave behind: modes, which adapter each layer wears, and gradient flags."""
    modes = [module.training for module in model.modules()]
    layers = [m for m in model.modules() if hasattr(m, "disable_adapters")]
    return [
        modes,
        [(m.active_adapters, m.disable_adapters) for m in layers],
        [p.requires_grad for p in model.parameters()],
    ]


def fails(trunk: Any) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("training", [True, False])
def test_whatever_happens_in_a_view_the_model_is_as_it_was(tmp_path: Path, training: bool) -> None:
    base = base_in(tmp_path / "base")
    model, backbone = policy_on(base)
    reward, value = backbone.load(saved_reward(base, tmp_path / "reward")), add_adapter(model, Adapter(r=2))
    model.train(training)
    before = state(model)
    for adapter in (reward, value, None):
        with pytest.raises(ZeroDivisionError), backbone.using(adapter) as trunk:
            fails(trunk.eval())
        assert state(model) == before


def test_views_nest(tmp_path: Path) -> None:
    base = base_in(tmp_path / "base")
    model, backbone = policy_on(base)
    reward = backbone.load(saved_reward(base, tmp_path / "reward"))
    with backbone.using(reward):
        outer = logits(model)
        with backbone.reference():
            assert (logits(model) - outer).abs().max() > 0.01
        assert torch.equal(logits(model), outer)


def test_a_fresh_adapter_learns_and_the_policys_does_not_learn_from_it(tmp_path: Path) -> None:
    model, backbone = policy_on(base_in(tmp_path / "base"))
    with backbone.using(add_adapter(model, Adapter(r=2))):
        model(IDS).logits.sum().backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert learned
    assert all(".beside_1." in name for name in learned)


def test_saving_the_policy_saves_its_adapter_alone(tmp_path: Path) -> None:
    base = base_in(tmp_path / "base")
    model, backbone = policy_on(base)
    expected = logits(model)
    backbone.load(saved_reward(base, tmp_path / "reward"))
    add_adapter(model, Adapter(r=2))
    backbone.save_policy(tmp_path / "policy")
    assert {path.name for path in (tmp_path / "policy").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    torch.testing.assert_close(logits(saved_policy(base, tmp_path / "policy")), expected, rtol=0, atol=0)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_an_adapter_of_embeddings_is_the_same_wherever_it_is_loaded(tmp_path: Path, target: str) -> None:
    base = base_in(tmp_path / "base")
    model, backbone = policy_on(base, target_modules=[target, "q_proj"])
    expected, folders = logits(model), (tmp_path / "policy", tmp_path / "again")
    backbone.save_policy(folders[0])
    backbone.save("default", folders[1])
    for folder in folders:
        other = Backbone(load_causal(base), base)
        with other.using(other.load(folder)):
            assert torch.equal(logits(other.model), expected)
    assert torch.equal(logits(load_start(Weights("sft", base, folders[0]))), expected)


def trunks() -> Iterator[Any]:
    gc.collect()
    return (thing for thing in gc.get_objects() if type(thing).__name__ == "LlamaModel")


def test_policy_reference_value_and_an_ensemble_hold_one_base(tmp_path: Path) -> None:
    base = base_in(tmp_path / "base")
    folders = [saved_reward(base, tmp_path / str(i), seed=i) for i in range(3)]
    assert not list(trunks())
    model, backbone = policy_on(base)
    judges = [open_reward(folder, component, backbone=backbone) for folder in folders]
    add_adapter(model, Adapter(r=2))
    rewards = [judge(SAMPLES).reward for judge in judges]
    assert len({tuple(reward.tolist()) for reward in rewards}) == 3
    assert len(list(trunks())) == 1
    tables = {w.data_ptr() for w in vars(model.get_base_model().model)["_modules"]["embed_tokens"].parameters()}
    assert len(tables) == 1


def test_a_reward_model_of_another_base_gets_its_own(tmp_path: Path) -> None:
    folder = saved_reward(base_in(tmp_path / "one"), tmp_path / "reward")
    alone = open_reward(folder, component)(SAMPLES).reward
    _, backbone = policy_on(base_in(tmp_path / "two"))
    assert torch.equal(open_reward(folder, component, backbone=backbone)(SAMPLES).reward, alone)


def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = saved_reward(Base(tiny_base(tmp_path / "narrow").path, None, Adapter(r=4)), tmp_path / "reward")
    _, backbone = policy_on(base_in(tmp_path / "base"))
    with pytest.raises(RunError, match="its adapter does not load"):
        backbone.load(folder)


def test_loading_draws_no_random_number(tmp_path: Path) -> None:
    base = base_in(tmp_path / "base")
    folder = saved_reward(base, tmp_path / "reward")
    _, backbone = policy_on(base)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    backbone.load(folder)
    assert torch.equal(torch.rand(2), expected)
    assert not torch.equal(expected, tensor([0.0, 0.0]))


def test_an_adapter_of_a_plain_base_is_active_in_its_view_alone(tmp_path: Path) -> None:
    base = base_in(tmp_path / "base")
    backbone = Backbone(load_causal(base), base)
    plain = logits(backbone.inner)
    adapters = [backbone.load(saved_reward(base, tmp_path / str(seed), seed)) for seed in (1, 2)]
    found = []
    for adapter in adapters:
        with backbone.using(adapter):
            found.append(logits(backbone.inner))
        assert torch.equal(logits(backbone.inner), plain)
    assert (found[0] - found[1]).abs().max() > 0.01
    assert (found[0] - plain).abs().max() > 0.01


@pytest.mark.parametrize("damage", ["missing", "other base"])
def test_an_adapter_that_does_not_load_leaves_nothing(tmp_path: Path, damage: str) -> None:
    base = base_in(tmp_path / "base")
    narrow = Base(tiny_base(tmp_path / "narrow").path, None, Adapter(r=4))
    good, bad = saved_reward(base, tmp_path / "good"), saved_reward(narrow, tmp_path / "bad")
    if damage == "missing":
        (bad / "adapter_model.safetensors").unlink()
    backbone = Backbone(load_causal(base), base)
    plain = logits(backbone.inner)
    with pytest.raises(RunError, match="its adapter does not load"):
        backbone.load(bad)
    assert not getattr(backbone.model, "peft_config", {})
    assert backbone.layers(backbone.load(good))
    assert torch.equal(logits(backbone.inner), plain)


def test_the_weights_of_the_base_have_their_names_whatever_adapters_it_has(tmp_path: Path) -> None:
    base = base_in(tmp_path / "base")
    backbone = Backbone(load_causal(base), base)
    before = {name: weights.clone() for name, weights in base_weights(backbone.inner).items()}
    backbone.load(saved_reward(base, tmp_path / "reward"))
    after = base_weights(backbone.inner)
    assert before.keys() == after.keys()
    assert all(torch.equal(weights, after[name]) for name, weights in before.items())


@QUANTIZATIONS
def test_a_base_without_adapters_is_plain_again(tmp_path: Path, quantization: str | None) -> None:
    base = base_in(tmp_path / "base", quantization)
    folder = saved_reward(base, tmp_path / "reward")
    backbone = Backbone(load_causal(base), base)
    plain, names = logits(backbone.inner), backbone.inner.state_dict().keys()
    first, second = backbone.load(folder), backbone.add(Adapter(r=2, target_modules=["q_proj"]))
    backbone.remove(first)
    third = backbone.load(folder)
    for adapter in (second, third):
        backbone.remove(adapter)
    assert backbone.inner.state_dict().keys() == names
    assert torch.equal(logits(backbone.model), plain)
    assert backbone.layers(backbone.load(folder))
