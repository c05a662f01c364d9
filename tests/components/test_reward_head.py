"""Reward heads: outputs worked by hand, how they start, and what holds whatever the features."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn, tensor
from torch.testing import assert_close

from rlhf_plugins.components.aggregation import Mean, Median, Vote, WorstCase
from rlhf_plugins.components.reward_head import (
    MLP,
    Ensemble,
    Gaussian,
    Multi,
    Quantile,
    Scalar,
    register_reward_head,
)
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.recipe.options import adapter, options

HEADS = [
    Scalar(),
    MLP(hidden=5, layers=2),
    Multi(["helpful", "honest"], [0.7, -0.2]),
    Gaussian(),
    Quantile(4),
    Ensemble(head=Gaussian(), members=3, aggregation=Mean()),
]
every = pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
seeds = given(seed=st.integers(0, 10_000))


def built(head: Any, width: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return head.build(width)


def moved(head: Any, width: int, seed: int = 0) -> nn.Module:
    """The built head with every weight away from its start, in float64."""
    module = built(head, width, seed).double()
    for weights in module.parameters():
        weights.data += torch.randn_like(weights)
    return module


def set_to(module: nn.Module, **weights: list[Any]) -> nn.Module:
    module.load_state_dict({name.replace("__", "."): tensor(values) for name, values in weights.items()})
    return module


def parts(said: Tensor | Prediction) -> list[Tensor]:
    """Every tensor that a head says, the reward first."""
    if isinstance(said, Tensor):
        return [said]
    found = [said.reward, said.variance, said.quantiles, said.members, *said.dimensions.values()]
    return [part for part in found if part is not None]


# ---- every head ------------------------------------------------------------------------------------------
@every
@given(seed=st.integers(0, 10_000), order=st.permutations(range(4)))
def test_rows_do_not_see_each_other(head: Any, seed: int, order: list[int]) -> None:
    module = moved(head, 3, seed)
    features = torch.randn(4, 3, dtype=torch.float64)
    together, shuffled, alone = (parts(module(given)) for given in (features, features[order], features[:1]))
    for one, other, first in zip(together, shuffled, alone, strict=True):
        assert_close(other, one[order])
        assert_close(first, one[:1])


@every
def test_weights_follow_the_seed_and_are_saved_whole(head: Any) -> None:
    module, same, other = built(head, 8, 7), built(head, 8, 7), built(head, 8, 8)
    features = torch.randn(2, 8)
    assert_close(parts(module(features)), parts(same(features)), rtol=0, atol=0)
    assert not torch.equal(parts(module(features))[0], parts(other(features))[0])
    other.load_state_dict(module.state_dict())
    assert_close(parts(module(features)), parts(other(features)), rtol=0, atol=0)


@every
def test_gradient(head: Any) -> None:
    module = moved(head, 3)
    features = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: tuple(parts(module(x))), (features, *module.parameters()))


@every
@pytest.mark.parametrize("size", [0.0, 1e6, -1e6, 1e15])
def test_extreme_features_stay_finite(head: Any, size: float) -> None:
    features = torch.full((2, 4), size, requires_grad=True)
    said = parts(moved(head, 4).float()(features))
    sum(part.sum() for part in said).backward()  # type: ignore[union-attr]
    assert all(part.isfinite().all() and part.dtype == torch.float32 for part in said)
    assert features.grad is not None
    assert features.grad.isfinite().all()


@every
def test_every_weight_learns(head: Any) -> None:
    module = built(head, 4)
    said = torch.cat([part.reshape(3, -1) for part in parts(module(torch.randn(3, 4)))], 1)
    (said * torch.randn(said.shape)).sum().backward()  # a sum would cancel the gaps of quantiles
    assert all(weights.grad is not None and weights.grad.abs().sum() > 0 for weights in module.parameters())


# ---- scalar and mlp --------------------------------------------------------------------------------------
def test_a_weighted_sum_by_hand() -> None:
    head = set_to(Scalar().build(3), weight=[[1.0, -2.0, 0.5]])
    # 1 - 2 + 2; nothing in, nothing out: there is no bias
    assert head(tensor([[1.0, 1.0, 4.0], [0.0, 0.0, 0.0]])).reward.tolist() == [1.0, 0.0]


def test_one_row_stays_one_row() -> None:
    assert Scalar().build(1)(tensor([[3.0]])).reward.shape == (1,)


@pytest.mark.parametrize(("head", "name"), [(Scalar(), "weight"), (Multi(["a", "b", "c"]), "linear.weight")])
def test_weights_start_with_the_published_spread(head: Any, name: str) -> None:
    weight = built(head, 1023).get_parameter(name)
    assert weight.std().item() == pytest.approx(1 / 32, rel=0.1)  # 1 / sqrt(1023 + 1)
    assert abs(weight.mean().item()) < 3 / 32 / 1023**0.5


def test_a_perceptron_by_hand() -> None:
    head = MLP(hidden=2, activation="tanh").build(1)
    weights = {"0.weight": [[1.0], [-1.0]], "0.bias": [0.0, 1.0], "3.weight": [[3.0, 2.0]]}
    head.load_state_dict({name: tensor(values) for name, values in weights.items()})
    assert head(tensor([[1.0]])).reward.item() == pytest.approx(3 * 0.7615942)  # 3 tanh(1) + 2 tanh(1 - 1)


@pytest.mark.parametrize(("hidden", "layers", "count"), [(None, 1, 24), (2, 1, 12), (2, 3, 24), (7, 2, 98)])
def test_a_perceptron_has_the_layers_asked_for(hidden: int | None, layers: int, count: int) -> None:
    # of 4 features: 4*4+4 + 4; 4*2+2 + 2; that + 2 (2*2+2); 4*7+7 + 7*7+7 + 7
    head = MLP(hidden, layers).build(4)
    assert sum(weights.numel() for weights in head.parameters()) == count


def test_dropout_is_for_training_alone() -> None:
    head, features = built(MLP(hidden=64, dropout=0.5), 4), torch.ones(2, 4)
    assert not torch.equal(head(features).reward, head(features).reward)
    head.eval()
    assert torch.equal(head(features).reward, head(features).reward)


# ---- multi -----------------------------------------------------------------------------------------------
def test_dimensions_by_hand() -> None:
    head = Multi(["helpful", "brief"], [1.0, -0.5]).build(2)
    set_to(head, linear__weight=[[1.0, 2.0], [3.0, 0.0]], linear__bias=[0.5, -1.0])
    said = head(tensor([[1.0, 1.0]]))
    assert {name: values.tolist() for name, values in said.dimensions.items()} == {"helpful": [3.5], "brief": [2.0]}
    assert said.reward.tolist() == [2.5]  # 3.5 - 0.5 * 2


@seeds
def test_without_weights_the_reward_is_the_mean_dimension(seed: int) -> None:
    said = moved(Multi(["a", "b", "c"]), 4, seed)(torch.randn(5, 4, dtype=torch.float64))
    assert list(said.dimensions) == ["a", "b", "c"]
    assert_close(said.reward, torch.stack(list(said.dimensions.values())).mean(0))


@pytest.mark.parametrize(
    ("dimensions", "weights", "message"),
    [
        (["a", "b", "a"], None, "dimensions: named twice: a"),
        (["a", "b"], [1.0], "weights: 1 numbers for 2 dimensions"),
        (["a", "b"], [], "weights: 0 numbers for 2 dimensions"),
        (["a", "b"], [0.0, 0.0], "weights: all 0"),
    ],
)
def test_dimensions_that_make_no_reward_are_refused(
    dimensions: list[str], weights: list[float] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Multi(dimensions, weights)


# ---- gaussian and quantile -------------------------------------------------------------------------------
def test_mean_and_variance_by_hand() -> None:
    head = Gaussian(floor=0.1).build(1)
    set_to(head, linear__weight=[[2.0], [1.0]], linear__bias=[0.5, 0.0])
    said = head(tensor([[0.0], [1.0], [-1.0], [-200.0]]))
    assert said.reward.tolist() == [0.5, 2.5, -1.5, -399.5]
    # 0.1 + 0.9 log2(1 + 2^s): log2 2 = 1, log2 3 = 1.5849625, log2 1.5 = 0.5849625, and at last the floor
    assert_close(said.variance, tensor([1.0, 1.52646625, 0.62646625, 0.1]))


@given(seed=st.integers(0, 10_000), floor=st.sampled_from([1e-6, 1e-4, 0.5]))
def test_the_variance_starts_at_1_and_keeps_above_its_floor(seed: int, floor: float) -> None:
    features = torch.randn(6, 3, dtype=torch.float64)
    start = built(Gaussian(floor), 3, seed).double()(features)
    assert_close(start.variance, torch.ones_like(start.reward))
    assert (moved(Gaussian(floor), 3, seed)(100 * features).variance >= floor).all()


def test_quantiles_by_hand() -> None:
    head, step = Quantile(3).build(1), NormalDist().inv_cdf(5 / 6)  # the levels are 1/6, 1/2 and 5/6
    set_to(head, linear__weight=[[1.0], [0.0], [0.0]], linear__bias=[0.0, 0.0, 1.584962501])
    said = head(tensor([[2.0]]))
    # gaps of step and step log2(1 + 3) = 2 step: 0, 1 and 3 steps, less their mean of 4/3
    assert_close(said.quantiles, tensor([[2 - 4 / 3 * step, 2 - step / 3, 2 + 5 / 3 * step]]))
    assert said.reward.tolist() == [2.0]
    assert_close(said.variance, tensor([14 / 9 * step**2]))  # (16 + 1 + 25) / 9 / 3


@pytest.mark.parametrize("count", [2, 5, 99])
def test_quantiles_start_as_those_of_a_normal(count: int) -> None:
    said = built(Quantile(count), 3)(torch.randn(4, 3))
    normal = tensor([NormalDist().inv_cdf((q + 0.5) / count) for q in range(count)])
    assert_close(said.quantiles, said.reward.unsqueeze(1) + normal)


@given(seed=st.integers(0, 10_000), count=st.integers(2, 40), size=st.sampled_from([1.0, 1e3]))
def test_quantiles_never_cross_and_average_to_the_reward(seed: int, count: int, size: float) -> None:
    said = moved(Quantile(count), 3, seed)(size * torch.randn(5, 3, dtype=torch.float64))
    assert (said.quantiles.diff() >= 0).all()
    assert_close(said.quantiles.mean(1), said.reward)


# ---- ensemble --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("aggregation", "reward"), [(Mean(), 4.0), (Median(), 2.0), (WorstCase(), 1.0)])
def test_members_by_hand(aggregation: Any, reward: float) -> None:
    head = Ensemble(head=Scalar(), members=3, aggregation=aggregation).build(1)
    set_to(head, heads__0__weight=[[1.0]], heads__1__weight=[[9.0]], heads__2__weight=[[2.0]])
    said = head(tensor([[1.0], [0.0]]))
    assert said.members.tolist() == [[1.0, 9.0, 2.0], [0.0, 0.0, 0.0]]
    assert said.reward.tolist() == [reward, 0.0]
    assert said.variance is None


@pytest.mark.parametrize("inner", [Gaussian(), Quantile(3), Multi(["a", "b"])], ids=lambda head: type(head).__name__)
def test_what_else_members_say_is_averaged(inner: Any) -> None:
    module = moved(Ensemble(head=inner, members=3, aggregation=WorstCase()), 2)
    features = torch.randn(4, 2, dtype=torch.float64)
    said, alone = module(features), [head(features) for head in module.get_submodule("heads").children()]
    assert_close(said.members, torch.stack([one.reward for one in alone], 1))
    assert_close(said.reward, said.members.amin(1))
    for name in inner.dimensions if isinstance(inner, Multi) else []:
        assert_close(said.dimensions[name], (sum(one.dimensions[name] for one in alone)) / 3)
    for name in ("variance", "quantiles"):
        if getattr(alone[0], name) is not None:
            assert_close(getattr(said, name), sum(getattr(one, name) for one in alone) / 3)


def test_members_start_apart() -> None:
    members = built(Ensemble(head=Scalar(), members=4, aggregation=Mean()), 8)(torch.ones(1, 8)).members
    assert len(set(members[0].tolist())) == 4


def test_an_aggregation_that_compares_siblings_is_refused() -> None:
    with pytest.raises(ValueError, match="aggregation: vote compares the responses to a prompt"):
        Ensemble(head=Scalar(), aggregation=Vote())


# ---- options ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("head", "option", "value"),
    [
        (MLP, "hidden", 0),
        (MLP, "layers", 0),
        (MLP, "activation", "relu6"),
        (MLP, "dropout", 1.0),
        (Multi, "dimensions", []),
        (Multi, "dimensions", ["a", ""]),
        (Multi, "weights", ["heavy"]),
        (Gaussian, "floor", 0.0),
        (Quantile, "quantiles", 1),
        (Ensemble, "members", 1),
    ],
)
def test_bad_options_are_refused(head: type, option: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        adapter(options(head)[option].annotation).validate_python(value)


def test_the_components_that_an_ensemble_holds() -> None:
    held = {name: (option.kind, option.default) for name, option in options(Ensemble).items() if option.kind}
    assert held == {"head": ("reward_head", "scalar"), "aggregation": ("aggregation", "mean")}


def test_names_of_the_recipe() -> None:
    assert register_reward_head() == {
        "scalar": Scalar,
        "mlp": MLP,
        "multi": Multi,
        "gaussian": Gaussian,
        "quantile": Quantile,
        "ensemble": Ensemble,
    }
