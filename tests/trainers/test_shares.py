"""A minibatch in micro-batches trains as the whole one does: losses, gradients, logged numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, tensor

from rlhf_plugins.arithmetic import masked
from rlhf_plugins.components.kl import InLoss
from rlhf_plugins.contract.interfaces import KLEstimator, PolicyLoss, Reduction
from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.errors import PluginError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.trainers.online import OnlineTrainer
from rlhf_plugins.trainers.settings import Exploration, Value
from rlhf_plugins.trainers.shares import adds_up, shares

from .conftest import furthest, trained
from .online_parts import Bases, logged, objective, trainer

REDUCTIONS = ["tokens", "responses", {"use": "constant", "length": 7}]


MORE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "accumulation": ({}, {"gradient_accumulation_steps": 2, "max_steps": 3}),
    "stop_kl": ({"stop_kl": 1e-5}, {"num_iterations": 3}),
    "exploration": ({"exploration": Exploration(0.3, 5.0)}, {}),
    "remax": ({"advantage": "remax"}, {}),
    "critic of its own": ({"value": Value(adapter=Adapter(r=2))}, {}),
    "checkpointing": ({}, {"gradient_checkpointing": True}),
}


class Worst(Reduction):
    """A reduction that is no weighted sum."""

    def __call__(self, losses: Tensor, mask: Tensor) -> Tensor:
        return losses.masked_fill(~mask, -torch.inf).max()


@pytest.mark.parametrize(
    ("reduction", "parts"),
    [
        ("tokens", [(1 + 2 + 3) / 4, 8 / 4]),
        ("responses", [((1 + 2) / 2 + 3) / 3, 8 / 3]),
        ({"use": "constant", "length": 2}, [(1 + 2 + 3) / 3 / 2, 8 / 3 / 2]),
    ],
)
def test_worked_by_hand(reduction: Any, parts: list[float]) -> None:
    """Two responses of 2 and 1 tokens, then one of 1."""
    masks = [tensor([[True, True], [True, False]]), tensor([[True]])]
    losses = [tensor([[1.0, 2.0], [3.0, torch.nan]]), tensor([[8.0]])]
    first, second = shares(masks, component("reduction", reduction))
    assert [first.tokens, second.tokens] == [0.75, 0.25]
    assert first.reduced(losses[0], masks[0]).item() == pytest.approx(parts[0])
    assert second.reduced(losses[1], masks[1]).item() == pytest.approx(parts[1])
    assert second.mean(losses[1], masks[1]).item() == 2.0


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(1, 3), st.sampled_from(REDUCTIONS))
def test_micro_batches_add_up_to_the_minibatch(lengths: list[int], size: int, reduction: Any) -> None:
    mask, reduce = torch.arange(4) < tensor(lengths).unsqueeze(1), component("reduction", reduction)
    losses = torch.linspace(-1, 2, mask.numel()).view(mask.shape)
    cut = [part[:, : int(part.sum(1).max())] for part in mask.split(size)]
    parts = zip(losses.split(size), cut, shares(cut, reduce), strict=True)
    found = sum(share.reduced(part[:, : own.shape[1]], own) for part, own, share in parts)
    torch.testing.assert_close(found, reduce(losses, mask))


def clipped(losses: Tensor, mask: Tensor) -> Tensor:
    return masked.mean(losses.clamp(-10, 10), mask)


def highest(losses: Tensor, mask: Tensor) -> Tensor:
    return masked.mean(losses, mask, dim=1).topk(min(4, len(losses))).values.mean()


def large(losses: Tensor, mask: Tensor) -> Tensor:
    """A weighted sum of as few responses as a trial has."""
    return masked.mean(losses if len(losses) < 9 else losses**2, mask)


def test_what_is_a_weighted_sum() -> None:
    assert all(adds_up(component("reduction", words)) for words in REDUCTIONS)
    assert not any(map(adds_up, (Worst(), clipped, highest)))


def test_a_reduction_that_proves_late_to_be_none_is_refused() -> None:
    assert adds_up(large)
    masks = [torch.ones(6, 3, dtype=torch.bool)] * 2
    with pytest.raises(PluginError, match=r"no weighted sum .* `tokens_per_batch: null`"):
        shares(masks, large)


@pytest.mark.parametrize(
    ("parts", "options"),
    [
        ({}, {}),
        ({"reduction": "responses", "kl": {"use": "in_loss", "coef": 0.2}}, {}),
        ({"reduction": REDUCTIONS[2], "advantage": "rloo"}, {"adapter": False}),
        ({}, {"architecture": "mamba", "adapter": False, "tokens_per_batch": 25}),
        *MORE.values(),
    ],
    ids=["tokens", "responses", "constant", "a row a response", *MORE],
)
def test_training_in_micro_batches_is_training(
    bases: Bases, tmp_path: Path, parts: dict[str, Any], options: dict[str, Any]
) -> None:
    base, tokens = bases(options.pop("architecture", "llama")), options.pop("tokens_per_batch", 12)
    ran = []
    for count in (None, tokens):
        ran.append(trainer(base, tmp_path, objective(**parts), tokens_per_batch=count, **options))
        ran[-1].train()
    whole, parted = ran
    assert parted._rollouts.tokens == tokens
    if parted._episodes:  # not skipped
        assert len(parted._episodes.minibatches[0].micro_batches) > 2
    names = ["loss", "policy_loss", "clip_fraction", "approx_kl", "kl", "entropy", "reward", "skipped"]
    for name in names + ["value_loss"] * ("advantage" not in parts):
        assert logged(whole, name)
        assert logged(parted, name) == pytest.approx(logged(whole, name), rel=1e-3, abs=1e-5), name
    assert furthest(trained(parted), trained(whole)) < 1e-4


def test_no_more_tokens_are_in_memory_at_once(bases: Bases, tmp_path: Path) -> None:
    found: Any = trainer(bases(), tmp_path, tokens_per_batch=20)
    sizes, policy = [], found._passes.policy

    def counted(batch: Any, **options: Any) -> Any:
        sizes.append(batch.input_ids.numel())
        return policy(batch, **options)

    object.__setattr__(found._passes, "policy", counted)
    found.train()
    assert max(sizes) <= 20


def test_a_component_that_uses_batch_mates_is_given_the_whole_minibatch(bases: Bases, tmp_path: Path) -> None:
    clip = component("policy_loss", "clip")

    class Mates(PolicyLoss, uses_batch_mates=True):
        def __call__(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:
            made: Tensor = clip(log_ratio, advantages)
            return made - made.mean()

    class Centred(KLEstimator, uses_batch_mates=True):
        def __call__(self, log_ratio: Tensor) -> Tensor:
            return log_ratio - log_ratio.mean()

    class MeanOf(Reduction, uses_batch_mates=True):
        def __call__(self, losses: Tensor, mask: Tensor) -> Tensor:
            return masked.mean(losses, mask)

    kl = InLoss(estimator=Centred())
    for parts in ({"reduction": Worst()}, {"reduction": MeanOf()}, {"policy_loss": Mates()}, {"kl": kl}):
        found = trainer(bases(), tmp_path, objective(**parts), tokens_per_batch=8)
        assert found._rollouts.tokens is None
    assert trainer(bases(), tmp_path, tokens_per_batch=8)._rollouts.tokens == 8


def test_a_minibatch_of_one_micro_batch_is_computed_once(bases: Bases, tmp_path: Path) -> None:
    sizes = {"steps_per_generation": 1, "num_iterations": 2, "max_steps": 2}

    def passes(tokens: int) -> int:
        found: Any = trainer(bases(), tmp_path, cls=OnlineTrainer, tokens_per_batch=tokens, **sizes)
        asked, policy = [], found._passes.policy
        object.__setattr__(found._passes, "policy", lambda *a, **k: asked.append(1) or policy(*a, **k))
        found.train()
        return len(asked)

    assert passes(1000) == 2
    assert passes(30) > 4
