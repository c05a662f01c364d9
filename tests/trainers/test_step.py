"""The loss of a minibatch, whole or in parts: by hand, and with the same gradients and logged numbers."""

from __future__ import annotations

from dataclasses import replace
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from marks import slow
from torch import Tensor, tensor

from rlhf_plugins.arithmetic import masked
from rlhf_plugins.arithmetic.moments import Unit
from rlhf_plugins.contract.interfaces import KLEstimator, PolicyLoss, Reduction
from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.errors import PluginError, RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.trainers.online.trainer import OnlineTrainer
from rlhf_plugins.trainers.ppo.models import Outputs
from rlhf_plugins.trainers.ppo.options import Exploration, Value
from rlhf_plugins.trainers.ppo.step import adds_up, loss, loss_weights, token_weights, without_gradient

from . import by_hand
from .conftest import furthest, trained
from .online_parts import Bases, logged, objective, trainer

REDUCTIONS = ["tokens", "responses", {"use": "constant", "length": 7}]


GSPO = {"use": "gspo", "epsilon": 0.05, "epsilon_high": 0.1}
MORE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "accumulation": ({}, {"gradient_accumulation_steps": 2, "max_steps": 3}),
    "stop_kl": ({"stop_kl": 1e-5}, {"num_iterations": 3}),
    "exploration": ({"exploration": Exploration(0.3, 5.0)}, {}),
    "gspo": ({"policy_loss": GSPO, "advantage": "grpo", "reduction": "responses"}, {"num_iterations": 2}),
    "remax": ({"advantage": "remax"}, {}),
    "critic of its own": ({"value": Value(adapter=Adapter(r=2))}, {}),
    "checkpointing": ({}, {"gradient_checkpointing": True}),
}


class Worst(Reduction):
    """A reduction that is no weighted sum."""

    def __call__(self, losses: Tensor, mask: Tensor) -> Tensor:
        return losses.masked_fill(~mask, -torch.inf).max()


def micro_batch(rows: list[int], mask: Tensor) -> Any:
    return SimpleNamespace(rows=tensor(rows), batch=SimpleNamespace(response_mask=lambda: mask))


def test_the_loss_by_hand() -> None:
    """Three tokens with A = 1, 1 and -1 and ratios 2, 1 and 1/2 at epsilon = 1/2: the first is cut off at 3/2."""
    mask, ones = tensor([[True, True], [True, False]]), torch.ones(2, 2)
    known: dict[str, Any] = {"log_probs": 0 * ones, "reference": 0 * ones, "values": 0 * ones, "returns": ones}
    known |= {"kl_coef": 0.1, "importance": None}
    rollout: Any = SimpleNamespace(advantages=tensor([[1.0, 1], [-1, 0]]), **known)
    rollout.value_unit = Unit(0.5, 2.0)
    rollout.token_weights = token_weights([tensor([0, 1])], mask)
    rollout.loss_weights = loss_weights([tensor([0, 1])], mask, component("reduction", "responses"))
    found = Outputs(tensor([[log(2), 0], [-log(2), 9]], requires_grad=True), 3 * ones, 0.4 * ones)
    aim = objective(policy_loss={"use": "clip", "epsilon": 0.5}, reduction="responses", kl={"use": "in_loss"})
    total, numbers = loss(found, micro_batch([0, 1], mask), rollout, aim)
    k3 = [(0.5 - 1 + log(2) + 0) / 2, 2 - 1 - log(2)]  # means of the responses
    policy_loss = ((-1.5 - 1) / 2 + 0.5 + 0.1 * (k3[0] + k3[1])) / 2
    value_loss = 0.5 * ((1 - 0) / 2 - by_hand.VALUE_CLIP) ** 2  # a value may move by so many deviations
    kl = (2 - 1 - log(2) + 0.5 - 1 + log(2)) / 3
    whole = policy_loss + by_hand.VALUE * value_loss - by_hand.ENTROPY * 3
    expected = {"policy_loss": policy_loss, "value_loss": value_loss, "clip_fraction": 1 / 3, "approx_kl": kl}
    assert numbers == pytest.approx({**expected, "loss": whole})
    assert total.item() == pytest.approx(whole)


@pytest.mark.parametrize(
    ("reduction", "weights"),
    [
        ("tokens", [[1 / 4, 1 / 4], [1 / 4, 0], [1 / 4, 0]]),
        ("responses", [[1 / 6, 1 / 6], [1 / 3, 0], [1 / 3, 0]]),
        ({"use": "constant", "length": 2}, [[1 / 6, 1 / 6], [1 / 6, 0], [1 / 6, 0]]),
    ],
)
def test_weights_by_hand(reduction: Any, weights: list[list[float]]) -> None:
    """Responses of 2, 1 and 1 tokens in one minibatch."""
    mask = tensor([[True, True], [True, False], [True, False]])
    found = loss_weights([tensor([0, 1, 2])], mask, component("reduction", reduction))
    torch.testing.assert_close(found, tensor(weights))
    torch.testing.assert_close(token_weights([tensor([0]), tensor([2, 1])], mask), mask / 2)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(1, 3), st.sampled_from(REDUCTIONS))
def test_weighted_sums_are_the_reductions_of_each_minibatch(lengths: list[int], size: int, reduction: Any) -> None:
    mask, reduce = torch.arange(4) < tensor(lengths).unsqueeze(1), component("reduction", reduction)
    losses, rows = torch.linspace(-1, 2, mask.numel()).view(mask.shape), torch.randperm(len(mask)).split(size)
    weights = loss_weights(rows, mask, reduce)
    for own in rows:
        torch.testing.assert_close((weights * losses)[own].sum(), reduce(losses[own], mask[own]))


@pytest.mark.parametrize(
    ("policy_loss", "cut"),
    [("clip", [0, 1, 0, 1, 0]), ({"use": "dual_clip", "limit": 3.0}, [0, 1, 0, 1, 1]), ("policy_gradient", [0] * 5)],
)
def test_a_token_from_which_nothing_is_learned_is_known_by_its_gradient(policy_loss: Any, cut: list[int]) -> None:
    """Within the clip, gaining beyond it, losing beyond it, gaining below it, and losing far beyond it."""
    log_ratio = tensor([[1.1, 1.3, 1.3, 0.7, 3.5]]).log().requires_grad_()
    losses = component("policy_loss", policy_loss)(log_ratio, tensor([[1.0, 1.0, -1.0, -1.0, -1.0]]))
    assert without_gradient(losses, log_ratio).int().tolist() == [cut]


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
    with pytest.raises(PluginError, match=r"no weighted sum .* `uses_batch_mates=True`"):
        loss_weights([torch.arange(12)], torch.ones(12, 3, dtype=torch.bool), large)


@pytest.mark.parametrize(
    ("parts", "options"),
    [
        ({}, {}),
        *slow(
            ({"reduction": "responses", "kl": {"use": "in_loss", "coef": 0.2}}, {}),
            ({"reduction": REDUCTIONS[2], "advantage": "rloo"}, {"adapter": False}),
            ({}, {"architecture": "mamba", "adapter": False, "tokens_per_batch": 25}),
        ),
        *(case if name in ("stop_kl", "gspo") else slow(case)[0] for name, case in MORE.items()),
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
    assert parted._rollouts.cut.tokens == tokens
    if parted._experience:  # not skipped
        assert len(parted._experience.parts[0]) > 2
    names = ["loss", "policy_loss", "clip_fraction", "approx_kl", "kl", "entropy", "reward", "skipped"]
    for name in names + ["value_loss"] * ("advantage" not in parts):
        assert logged(whole, name)
        assert logged(parted, name) == pytest.approx(logged(whole, name), rel=1e-3, abs=1e-5), name
    assert furthest(trained(parted), trained(whole)) < 1e-4


def test_no_more_tokens_are_in_memory_at_once(bases: Bases, tmp_path: Path) -> None:
    found: Any = trainer(bases(), tmp_path, tokens_per_batch=20)
    sizes, outputs = [], found._models.outputs

    def counted(batch: Any, **options: Any) -> Any:
        sizes.append(batch.input_ids.numel())
        return outputs(batch, **options)

    object.__setattr__(found._models, "outputs", counted)
    found.train()
    assert max(sizes) <= 20


class Mates(PolicyLoss, uses_batch_mates=True):
    def __call__(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        made: Tensor = component("policy_loss", "clip")(log_ratio, advantages)
        return made - made.mean() / 2


class Centred(KLEstimator, uses_batch_mates=True):
    def __call__(self, log_ratio: Tensor) -> Tensor:
        return log_ratio - log_ratio.mean()


class MeanOf(Reduction, uses_batch_mates=True):
    def __call__(self, losses: Tensor, mask: Tensor) -> Tensor:
        return masked.mean(losses, mask)


@pytest.mark.parametrize(
    "parts",
    [
        {"reduction": "tokens", "kl": {"use": "in_loss", "coef": 0.2}},
        *slow(*({"reduction": reduction, "kl": {"use": "in_loss", "coef": 0.2}} for reduction in REDUCTIONS[1:])),
        *slow({"reduction": Worst()}),
        {"policy_loss": Mates()},
    ],
    ids=["tokens", "responses", "constant", "no sum", "batch mates"],
)
def test_accumulation_does_not_change_the_gradient(bases: Bases, tmp_path: Path, parts: dict[str, Any]) -> None:
    """Two epochs of rollouts of 16 responses, in one training step and in four: at the second epoch ratios differ."""
    sizes = {"num_generations": 4, "num_iterations": 2, "max_steps": 4}
    whole = {"per_device_train_batch_size": 16, "steps_per_generation": 1, **sizes}
    four = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "steps_per_generation": 4, **sizes}
    ran = []
    for options in (whole, four):
        ran.append(trainer(bases(), tmp_path, objective(**parts), **options))
        ran[-1].train()
    one, parted = ran
    names = ["grad_norm", "loss", "policy_loss", "value_loss", "clip_fraction", "approx_kl", "kl", "skipped"]
    for name in names:
        assert len(logged(one, name)) >= 2
        assert logged(parted, name) == pytest.approx(logged(one, name), rel=1e-3, abs=1e-5), name
    assert furthest(trained(parted), trained(one)) < 3e-4


def test_the_rest_of_a_rollout_is_skipped_by_whole_optimizer_steps(bases: Bases, tmp_path: Path) -> None:
    sizes = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "steps_per_generation": 4}
    found = trainer(bases(), tmp_path, objective(stop_kl=1e-9), **sizes, num_iterations=2, max_steps=8)
    found.train()
    assert logged(found, "skipped") == 2 * [0.0, 0.0, 1.0, 1.0]  # at the second of four steps the policy has moved


def test_an_optimizer_step_that_would_mix_rollouts_is_refused(bases: Bases, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="gradient_accumulation_steps: 3 does not divide steps_per_generation: 2"):
        trainer(bases(), tmp_path, gradient_accumulation_steps=3)


def test_a_component_that_uses_batch_mates_is_given_the_whole_minibatch(bases: Bases, tmp_path: Path) -> None:
    kl = replace(component("kl", "in_loss"), estimator=Centred())
    for parts in ({"reduction": Worst()}, {"reduction": MeanOf()}, {"policy_loss": Mates()}, {"kl": kl}):
        found = trainer(bases(), tmp_path, objective(**parts), tokens_per_batch=8)
        assert found._rollouts.cut.tokens is None
    assert trainer(bases(), tmp_path, tokens_per_batch=8)._rollouts.cut.tokens == 8


def test_a_minibatch_of_one_micro_batch_is_computed_once(bases: Bases, tmp_path: Path) -> None:
    sizes = {"steps_per_generation": 1, "num_iterations": 2, "max_steps": 2}

    def passes(tokens: int) -> int:
        found: Any = trainer(bases(), tmp_path, cls=OnlineTrainer, tokens_per_batch=tokens, **sizes)
        asked, outputs = [], found._models.outputs
        object.__setattr__(found._models, "outputs", lambda *a, **k: asked.append(1) or outputs(*a, **k))
        found.train()
        return len(asked)

    assert passes(1000) == 2
    assert passes(30) > 4
