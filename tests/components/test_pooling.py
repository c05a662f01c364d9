"""Poolings: worked by hand, and blind to padding, batch mates and order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn, tensor
from torch.testing import assert_close

from rlhf_plugins.components.pooling import (
    Attention,
    Hierarchical,
    LastToken,
    LearnedHierarchical,
    Max,
    Mean,
    MeanSqrtLength,
    MultiScale,
    Sum,
    register_pooling,
)
from rlhf_plugins.recipe.options import adapter, options

HIDDEN = tensor([[[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]]])
ALL = tensor([[True, True, True]])
POOLINGS = [
    LastToken(),
    Mean(),
    MeanSqrtLength(2.0),
    Max(),
    Attention(),
    Hierarchical(0.3),
    LearnedHierarchical(0.3),
    MultiScale(2),
    Sum(4.0),
]
LEARNED = [pooling for pooling in POOLINGS if hasattr(pooling, "build")]
every = pytest.mark.parametrize("pooling", POOLINGS, ids=lambda pooling: type(pooling).__name__)
AVERAGES = [pooling for pooling in POOLINGS if not isinstance(pooling, MeanSqrtLength | Sum)]  # they grow with it
averaging = pytest.mark.parametrize("pooling", AVERAGES, ids=lambda pooling: type(pooling).__name__)
learned = pytest.mark.parametrize("pooling", LEARNED, ids=lambda pooling: type(pooling).__name__)


def acting(pooling: Any, width: int = 3) -> Callable[[Tensor, Tensor], Tensor]:
    """The pooling itself, or what it builds with weights away from their start."""
    if not hasattr(pooling, "build"):
        return pooling
    module, draw = pooling.build(width).double(), torch.Generator().manual_seed(0)
    for weights in module.parameters():
        weights.data += torch.randn(weights.shape, generator=draw, dtype=weights.dtype)
    return module


def set_to(module: nn.Module, **weights: list[float]) -> nn.Module:
    module.load_state_dict({name: tensor(values) for name, values in weights.items()})
    return module


@pytest.mark.parametrize(
    ("mask", "last", "mean", "greatest"),
    [
        ([True, True, True], [6.0, 60.0], [3.0, 30.0], [6.0, 60.0]),
        ([True, True, False], [2.0, 20.0], [1.5, 15.0], [2.0, 20.0]),  # padded on the right
        ([False, True, True], [6.0, 60.0], [4.0, 40.0], [6.0, 60.0]),  # padded on the left
        ([False, True, False], [2.0, 20.0], [2.0, 20.0], [2.0, 20.0]),
    ],
)
def test_by_hand(mask: list[bool], last: list[float], mean: list[float], greatest: list[float]) -> None:
    assert LastToken()(HIDDEN, tensor([mask])).tolist() == [last]
    assert Mean()(HIDDEN, tensor([mask])).tolist() == [mean]
    assert Max()(HIDDEN, tensor([mask])).tolist() == [greatest]


def test_an_end_token_that_is_also_the_padding_token_is_found_by_the_mask() -> None:
    ids = tensor([[5, 6, 0, 0]])  # 0 ends the response and pads: the mask keeps the first
    hidden = tensor([[[0.0], [1.0], [2.0], [3.0]]])
    mask = tensor([[True, True, True, False]])
    assert (ids[mask] == 0).sum() == 1
    assert LastToken()(hidden, mask).tolist() == [[2.0]]
    assert Mean()(hidden, mask).tolist() == [[1.0]]


def test_the_greatest_is_taken_feature_by_feature_and_may_be_negative() -> None:
    hidden = tensor([[[-1.0, -5.0], [-2.0, -4.0], [9.0, 9.0]]])
    assert Max()(hidden, tensor([[True, True, False]])).tolist() == [[-1.0, -4.0]]


def test_attention_by_hand() -> None:
    module = set_to(Attention().build(2), query=[math.log(2), 0.0])  # shares 2^1 : 2^2 : 2^6 = 1 : 2 : 32 of 35
    assert_close(module(HIDDEN, ALL), tensor([[197 / 35, 1970 / 35]]))  # 1 + 2 * 2 + 32 * 6 = 197
    assert_close(module(HIDDEN, tensor([[True, True, False]])), tensor([[5 / 3, 50 / 3]]))  # (1 + 2 * 2) / 3


@pytest.mark.parametrize(("alpha", "pooled"), [(0.0, 3.0), (0.25, 3.75), (1.0, 6.0)])  # alpha 6 + (1 - alpha) 3
def test_hierarchical_by_hand(alpha: float, pooled: float) -> None:
    assert Hierarchical(alpha)(HIDDEN, ALL).tolist() == [[pooled, 10 * pooled]]


def test_a_learned_share_by_hand() -> None:
    assert_close(LearnedHierarchical(0.25).build(2)(HIDDEN, ALL), tensor([[3.75, 37.5]]))
    module = set_to(LearnedHierarchical(0.25).build(2), logit=[math.log(2)])  # sigmoid(log 2) = 2/3
    assert_close(module(HIDDEN, ALL), tensor([[5.0, 50.0]]))  # 2/3 * 6 + 1/3 * 3


def test_scales_start_as_the_mean_of_three_means() -> None:
    # windows [1, 2] and [6] have the means 1.5 and 6, whose mean is 3.75; token and document are 3 each
    assert_close(MultiScale(window=2).build(2)(HIDDEN, ALL), tensor([[3.25, 32.5]]))


@pytest.mark.parametrize(
    ("gates", "expected"),
    [
        ([99.0, 0.0, 0.0], 1288 / 196),  # tokens 2, 6, 7 with shares 4 : 64 : 128; 8 + 384 + 896 = 1288, over 196
        ([0.0, 99.0, 0.0], 960 / 144),  # windows [2, 6] and [7] of means 4 and 7, shares 16 : 128; 64 + 896 = 960
        ([0.0, 0.0, 99.0], 5.0),
    ],
)
def test_each_scale_by_hand(gates: list[float], expected: float) -> None:
    module = set_to(MultiScale(window=2).build(1), token_query=[math.log(2)], sentence_query=[math.log(2)], gates=gates)
    hidden = tensor([[[1e9], [2.0], [6.0], [7.0]]])  # windows begin at the mask's first token
    assert_close(module(hidden, tensor([[False, True, True, True]])), tensor([[expected]]))


def random_batch(seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(4, 6, 3, generator=draw, dtype=torch.float64)
    return hidden, torch.arange(6) < torch.randint(1, 7, (4, 1), generator=draw)


@every
@given(
    seed=st.integers(0, 10_000),
    junk=st.sampled_from([1e9, -1e300, float("nan"), float("inf")]),
    left=st.integers(0, 5),
    right=st.integers(0, 5),
)
def test_padding_never_counts(pooling: Any, seed: int, junk: float, left: int, right: int) -> None:
    (hidden, mask), act = random_batch(seed), acting(pooling)
    pooled = act(hidden, mask)
    dirty = hidden.masked_fill(~mask.unsqueeze(-1), junk)
    wider = nn.functional.pad(dirty, (0, 0, left, right), value=junk)
    assert_close(act(dirty, mask), pooled, rtol=0, atol=0)
    assert_close(act(wider, nn.functional.pad(mask, (left, right))), pooled)


@every
@given(seed=st.integers(0, 10_000), order=st.permutations(range(4)))
def test_batch_mates_and_their_order_never_count(pooling: Any, seed: int, order: list[int]) -> None:
    (hidden, mask), act = random_batch(seed), acting(pooling)
    pooled = act(hidden, mask)
    assert_close(act(hidden[order], mask[order]), pooled[order])
    n = int(mask[0].sum())
    assert_close(act(hidden[:1, :n], mask[:1, :n]), pooled[:1])


@averaging
@given(seed=st.integers(0, 10_000))
def test_equal_tokens_pool_to_themselves(pooling: Any, seed: int) -> None:
    hidden, mask = random_batch(seed)
    assert_close(acting(pooling)(hidden[:, :1].expand(4, 6, 3), mask), hidden[:, 0])


@every
def test_gradient(pooling: Any) -> None:
    (hidden, mask), act = random_batch(0), acting(pooling)
    weights = tuple(act.parameters()) if isinstance(act, nn.Module) else ()
    assert torch.autograd.gradcheck(lambda h, *_: act(h, mask), (hidden.requires_grad_(), *weights))


@every
@pytest.mark.parametrize("junk", [1e9, float("nan")])
def test_no_gradient_reaches_a_masked_position(pooling: Any, junk: float) -> None:
    hidden, mask = random_batch(1)
    hidden = hidden.masked_fill(~mask.unsqueeze(-1), junk).requires_grad_()
    acting(pooling)(hidden, mask).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad[~mask].eq(0).all()
    assert hidden.grad[mask].isfinite().all()


@averaging
def test_a_row_without_tokens_is_0_and_learns_nothing(pooling: Any) -> None:
    hidden = torch.full((2, 3, 3), float("nan"), dtype=torch.float64)
    hidden[0] = 1.0
    mask = tensor([[True] * 3, [False] * 3])
    act = acting(pooling)
    pooled = act(hidden.requires_grad_(), mask)
    pooled.sum().backward()
    assert_close(pooled.detach(), tensor([[1.0] * 3, [0.0] * 3], dtype=torch.float64))
    weights = act.parameters() if isinstance(act, nn.Module) else ()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in (hidden, *weights))


@averaging
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_long_half_precision_sequences_do_not_overflow_or_round(pooling: Any, dtype: torch.dtype) -> None:
    act = pooling.build(2) if hasattr(pooling, "build") else pooling
    hidden = torch.full((1, 4096, 2), 1000.0, dtype=dtype)  # a sum of 4 million, beyond float16
    with torch.autocast("cpu", torch.bfloat16):
        pooled = act(hidden, torch.ones(1, 4096, dtype=torch.bool))
    assert_close(pooled.float(), torch.full((1, 2), 1000.0))


@every
def test_autocast_changes_nothing(pooling: Any) -> None:
    hidden, mask = random_batch(0)
    act = pooling.build(3) if hasattr(pooling, "build") else pooling
    exact = act(hidden.float(), mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(act(hidden.float(), mask), exact, rtol=0, atol=0)


@learned
def test_attention_of_huge_states_stays_finite(pooling: Any) -> None:
    act = acting(pooling)
    hidden = torch.full((1, 2, 3), 1e30, dtype=torch.float64).requires_grad_()
    pooled = act(hidden, tensor([[True, True]]))
    pooled.sum().backward()
    assert_close(pooled.detach(), torch.full((1, 3), 1e30, dtype=torch.float64))
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


@given(seed=st.integers(0, 10_000))
def test_attention_starts_as_the_mean(seed: int) -> None:
    hidden, mask = random_batch(seed)
    assert_close(Attention().build(3)(hidden, mask), Mean()(hidden, mask))
    assert_close(MultiScale(window=1).build(3)(hidden, mask), Mean()(hidden, mask))
    assert_close(MultiScale(window=99).build(3)(hidden, mask), Mean()(hidden, mask))


def test_a_row_of_three_sentences_is_worked_by_hand() -> None:
    """Sentences of 1, 3 and 2 tokens have the means 1, 3 and 8, and their mean is 4; that of the tokens is 26 / 6."""
    hidden = tensor([[[1.0], [1.0], [3.0], [5.0], [7.0], [9.0], [99.0]]])
    mask, number = tensor([[True] * 6 + [False]]), tensor([[0, 1, 1, 1, 2, 2, 2]])
    module = MultiScale().build(1)
    assert_close(module(hidden, mask, number), tensor([[(26 / 6 + 4 + 26 / 6) / 3]]))
    module.gates.data = tensor([-99.0, 0.0, -99.0])
    module.sentence_query.data = tensor([math.log(2)])  # shares of 2, 8 and 256
    assert_close(module(hidden, mask, number), tensor([[(2 * 1 + 8 * 3 + 256 * 8) / 266]]))


@learned
def test_every_weight_learns(pooling: Any) -> None:
    module = pooling.build(3).double()
    (module(*random_batch(0)) ** 2).sum().backward()
    assert all(weights.grad.abs().sum() > 0 for weights in module.parameters())


@pytest.mark.parametrize("pooling", [Mean, Max, Attention, Hierarchical, LearnedHierarchical, MultiScale])
def test_what_acts_tells_which_tokens_it_is_to_see(pooling: Any) -> None:
    for over in ("response", "sequence"):
        component = pooling(over=over)
        acts = component.build(2) if hasattr(component, "build") else component
        assert acts.over == over
    assert pooling().over == "sequence"


@pytest.mark.parametrize(
    ("pooling", "option", "value"),
    [
        (Mean, "over", "prompt"),
        (Hierarchical, "alpha", 1.1),
        (LearnedHierarchical, "alpha", 1.0),
        (LearnedHierarchical, "alpha", 0.0),
        (MultiScale, "window", 0),
    ],
)
def test_bad_options_are_refused(pooling: type, option: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        adapter(options(pooling)[option].annotation).validate_python(value)


def test_the_sum_over_the_root_of_the_length_by_hand() -> None:
    """(1 + 3 + 5 + 7) / sqrt(4) / 2 = 4, and of the first alone 1 / 1 / 2."""
    hidden = tensor([[1.0], [3.0], [5.0], [7.0]]).expand(2, 4, 1)
    mask = tensor([[True] * 4, [True, False, False, False]])
    assert MeanSqrtLength(2.0)(hidden, mask).tolist() == [[4.0], [0.5]]
    assert MeanSqrtLength()(hidden, torch.zeros_like(mask)).tolist() == [[0.0], [0.0]]


def test_the_sum_by_hand() -> None:
    """(1 + 2 + 6) / 4."""
    assert_close(Sum(4.0)(HIDDEN, ALL), tensor([[2.25, 22.5]]))


def test_names_of_the_recipe() -> None:
    assert register_pooling() == {
        "last_token": LastToken,
        "mean": Mean,
        "mean_sqrt_length": MeanSqrtLength,
        "max": Max,
        "attention": Attention,
        "hierarchical": Hierarchical,
        "learned_hierarchical": LearnedHierarchical,
        "multi_scale": MultiScale,
        "sum": Sum,
    }
