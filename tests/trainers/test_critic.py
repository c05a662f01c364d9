"""A critic with an adapter or a model of its own learns beside the policy, and neither disturbs the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from marks import slow
from peft import LoraConfig, get_peft_model
from torch import Tensor

from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.engine.weights.loading import load_causal
from rlhf_plugins.errors import RunError
from rlhf_plugins.testing.tiny import tiny_base, tiny_encoder
from rlhf_plugins.trainers.online.trainer import OnlineTrainer
from rlhf_plugins.trainers.ppo.critic import Critic
from rlhf_plugins.trainers.ppo.options import Value

from . import by_hand
from .conftest import furthest, trained
from .online_parts import Bases, objective, rolled_out, trainer
from .test_online import Watched

OWN = Adapter(r=2)


def with_critic(bases: Bases, folder: Path, value: Value, **options: Any) -> OnlineTrainer:
    """Trained; the norm of the gradient, which both share, is not cut."""
    found = trainer(bases(), folder, objective(value=value), **{"max_steps": 2, "max_grad_norm": 1e9, **options})
    found.train()
    return found


def policy(found: OnlineTrainer) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in found.model.named_parameters() if ".default." in name}


def test_its_adapter_and_head_are_trained_and_taken_off(bases: Bases, tmp_path: Path) -> None:
    found = with_critic(bases, tmp_path, Value(adapter=OWN))
    weights = found.take_value_head()
    assert {tuple(weights[name].shape) for name in ("weight", "bias")} == {(1, 32), (1,)}
    outer = [tensor for name, tensor in weights.items() if "lora_B" in name]
    assert len(outer) == 14  # two layers of seven
    assert all(tensor.any() for tensor in outer)  # they start at 0


def critics(found: OnlineTrainer) -> dict[str, Tensor]:
    assert found._critic
    return {name: weights.detach().clone() for name, weights in found._critic.weights.items()}


@pytest.mark.parametrize("value", [{}, {"adapter": OWN}], ids=["shared", "adapter"])
def test_a_rate_of_its_own_is_that_of_its_weights_alone(bases: Bases, tmp_path: Path, value: dict[str, Any]) -> None:
    """Of a constant schedule; and the trainer's own rate, given to both, changes nothing."""
    options: dict[str, Any] = {"learning_rate": 1e-2, "lr_scheduler_type": "constant", "max_steps": 1}
    plain, same, slower = (
        with_critic(bases, tmp_path, Value(**value, learning_rate=rate), **options) for rate in (None, 1e-2, 1e-3)
    )
    assert {each["lr"] for each in slower.optimizer.param_groups if each["params"]} == {1e-2, 1e-3}
    assert furthest(trained(plain), trained(same)) == 0
    assert all(torch.equal(critics(plain)[name], weights) for name, weights in critics(same).items())
    assert all(torch.equal(policy(plain)[name], weights) for name, weights in policy(slower).items())
    moved = [critics(each)["value_head.weight"] for each in (plain, slower)]  # from 0, by one step of Adam
    torch.testing.assert_close(moved[0], 10 * moved[1])


@pytest.mark.slow
def test_the_policy_does_not_feel_the_value_loss(bases: Bases, tmp_path: Path) -> None:
    first, second = (with_critic(bases, tmp_path, Value(coef, adapter=OWN), max_steps=1) for coef in (0.1, 10.0))
    assert all(torch.equal(p, policy(second)[name]) for name, p in policy(first).items())


def test_on_the_policys_trunk_it_does(bases: Bases, tmp_path: Path) -> None:
    first, second = (with_critic(bases, tmp_path, Value(coef)) for coef in (0.1, 10.0))
    assert not all(torch.equal(p, policy(second)[name]) for name, p in policy(first).items())


@pytest.mark.slow
def test_activations_recomputed_for_the_policy_change_nothing(bases: Bases, tmp_path: Path) -> None:
    """Recomputed in the backward pass under the policy's adapter, the critic's gradient would be another."""
    plain, spared = (
        with_critic(bases, tmp_path, Value(adapter=OWN), gradient_checkpointing=on).take_value_head()
        for on in (False, True)
    )
    for name, tensor in plain.items():
        torch.testing.assert_close(spared[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activations_of_the_critic_are_recomputed_too(bases: Bases, tmp_path: Path, reentrant: bool) -> None:
    """A step computes each layer for policy and critic, and again in the backward pass."""
    found: Any = trainer(bases(), tmp_path, objective(value=Value(adapter=OWN)))
    found._experience = rolled_out(found, ["how is the"] * 6)
    found._experience.first = None
    computed: list[str] = []
    layer = found.model.get_base_model().model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: computed.append(str(layer.down_proj.active_adapters)))
    (part,) = found._experience.parts[0]
    found.model.train().gradient_checkpointing_enable({"use_reentrant": reentrant})
    found._learn(part)
    policy, critic = "['default']", f"['{found._critic._adapter}']"
    again = [policy] if reentrant else [critic, policy]  # where it cannot be recomputed, it is kept
    assert computed == [policy, critic, *again]


def test_beside_modules_that_an_adapter_trains_whole_its_adapter_is_refused(tmp_path: Path) -> None:
    given = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = get_peft_model(load_causal(tiny_base(tmp_path)), given)
    with pytest.raises(RunError, match="value.adapter: PEFT would put it into modules_to_save too"):
        Critic(model, Value(adapter=OWN))
    assert "value_head.weight" in dict(Critic(model, Value())._model.named_parameters())


def test_where_all_weights_are_trained_it_is_refused(bases: Bases, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="value.adapter needs a base that is not trained itself"):
        trainer(bases(), tmp_path, objective(value=Value(adapter=OWN)), adapter=False)


@pytest.mark.parametrize("adapter", [None, OWN], ids=["trunk", "own adapter"])
def test_values_are_float32_where_the_rest_is_bfloat16(bases: Bases, tmp_path: Path, adapter: Any) -> None:
    found = trainer(bases(), tmp_path, objective(value=Value(adapter=adapter)), bf16=True)
    torch.nn.init.normal_(found.model.value_head.weight, std=30.0)
    (batch,) = found._models.batches([[5, 6]], [[7, 8, 9]], None)
    outputs = found._models.outputs(batch)
    assert outputs.values is not None
    assert outputs.values.dtype == torch.float32
    assert not torch.equal(outputs.values, outputs.values.bfloat16().float())


# ---- a model of its own ------------------------------------------------------------------------------------
ALONE = Value(by_hand.VALUE, by_hand.VALUE_CLIP, network="own")


@pytest.mark.parametrize("adapter", [True, *slow(False)], ids=["lora", "full"])
def test_with_its_own_model_the_loss_is_the_one_computed_by_hand(bases: Bases, tmp_path: Path, adapter: bool) -> None:
    watched: Any = trainer(bases(), tmp_path, objective(value=ALONE), cls=Watched, adapter=adapter)
    watched.train()
    mine, plain = zip(*watched.pairs, strict=True)
    assert mine == pytest.approx(plain, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("options", [{"adapter": True}, {"adapter": False}, {"adapter": False, "tokens_per_batch": 24}])
@pytest.mark.slow
def test_its_own_model_is_trained_and_the_policy_does_not_feel_it(bases: Bases, tmp_path: Path, options: Any) -> None:
    ends = []
    for coef in (0.1, 10.0):
        found = with_critic(bases, tmp_path, Value(coef, network="own"), **options)
        network = found.value_network
        start = load_causal(bases()).base_model.state_dict()
        assert all(not torch.equal(weights, start[name]) for name, weights in network.named_parameters())
        assert found.take_value_head().keys() == {"weight", "bias", "count", "mean", "deviation"}
        assert not [name for name, _ in found.model.named_parameters() if "value" in name and "proj" not in name]
        ends.append(trained(found))
    assert furthest(*ends) == 0


def test_its_own_model_may_have_another_base_and_an_adapter(bases: Bases, tmp_path: Path) -> None:
    other = bases("gpt2", hidden_size=16)
    found = with_critic(bases, tmp_path, Value(network="own", base=other.path, adapter=Adapter(r=2)))
    assert found.model.value_head.weight.shape == (1, 16)
    moved = [
        name for name, p in found.value_network.named_parameters() if p.requires_grad and "lora_B" in name and p.any()
    ]
    assert len(moved) == 8  # two layers of four
    assert found.value_network.device == found.model.device


def test_another_vocabulary_is_refused(bases: Bases, tmp_path: Path) -> None:
    other = tiny_encoder(tmp_path / "bert")
    with pytest.raises(RunError, match="value.base: .*bert has another vocabulary than the policy"):
        trainer(bases(), tmp_path, objective(value=Value(network="own", base=other.path)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"network": "shared", "adapter": OWN},
            "adapter: the network is shared with the policy; write network: adapter",
        ),
        ({"base": "gpt2"}, "base: only a network of the critic's own has one; write network: own"),
    ],
)
def test_options_that_contradict_one_another_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Value(**options)
