"""Shared rows, separate rows and single sequences give one and the same number and gradient."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from rlhf_plugins.data.branches import PromptBranches
from rlhf_plugins.models.forward import response_logps, takes_shared_rows, trunk_of

from .conftest import EOS, PAD, batch_of, plain_logps, ragged, sequences

Causal = Callable[..., Any]
SHARING = ["llama", "qwen3", "gpt2", "mistral", "gemma", "opt"]
SEPARATE = [("mistral", {"sliding_window": 3}), ("gemma2", {}), ("mamba", {}), ("mpt", {}), ("bloom", {})]
SCALED = [("granite", {"logits_scaling": 4.0}), ("cohere", {}), ("gemma2", {})]


def worst(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected number."""
    return float(((found - expected).abs().max() / expected.abs().max()).detach())


def plain(model: Any, groups: list[PromptBranches], temperature: float = 1.0) -> list[Tensor]:
    return [
        plain_logps(model, p, b, temperature).gather(1, torch.tensor(b).unsqueeze(1))[:, 0]
        for p, b in sequences(groups)
    ]


def weighted(logps: Tensor) -> Tensor:
    """A scalar in which every token counts differently."""
    return (logps * torch.linspace(0.5, 1.5, logps.numel(), dtype=logps.dtype).view_as(logps)).sum()


def gradients(model: Any, groups: list[PromptBranches], shared: bool) -> Tensor:
    model.zero_grad()
    weighted(response_logps(model, batch_of(groups, shared)).logps).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def adapted(model: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(model, config).eval()


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", SHARING)
def test_shared_rows_equal_separate_ones(causal: Causal, architecture: str, lora: bool) -> None:
    model, groups = causal(architecture), ragged()
    model = adapted(model) if lora else model
    assert takes_shared_rows(model)
    shared, separate = (response_logps(model, batch_of(groups, s)).logps for s in (True, False))
    assert worst(shared, separate) < 1e-5
    assert worst(gradients(model, groups, True), gradients(model, groups, False)) < 1e-5


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_in_float64_they_equal_to_ten_digits(causal: Causal, lora: bool) -> None:
    model, groups = causal("gpt2"), ragged(1)  # others normalise in float32 whatever they are given
    model = (adapted(model) if lora else model).double()
    shared, separate = (response_logps(model, batch_of(groups, s)).logps for s in (True, False))
    assert shared.dtype == torch.float64
    assert worst(shared, separate) < 1e-10
    assert worst(gradients(model, groups, True), gradients(model, groups, False)) < 1e-10


@pytest.mark.parametrize("architecture", SHARING)
def test_log_probabilities_are_those_of_each_sequence_alone(causal: Causal, architecture: str) -> None:
    model, groups = causal(architecture), ragged(2)
    found = response_logps(model, batch_of(groups))
    for row, expected in zip(found.logps, plain(model, groups), strict=True):
        torch.testing.assert_close(row[: len(expected)], expected, rtol=1e-5, atol=1e-5)
        assert not row[len(expected) :].any()


def test_gradients_are_those_of_each_sequence_alone(causal: Causal) -> None:
    model, groups = causal("gpt2"), ragged(3)
    found = gradients(model, groups, shared=True)
    width = response_logps(model, batch_of(groups)).logps.shape[1]
    model.zero_grad()
    weighted(torch.stack([torch.nn.functional.pad(p, (0, width - len(p))) for p in plain(model, groups)])).backward()
    assert worst(found, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])) < 1e-5


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_and_entropy_are_the_books(causal: Causal, temperature: float) -> None:
    model, groups = causal(), ragged(4)
    found = response_logps(model, batch_of(groups), temperature, entropy=True)
    assert found.entropies is not None
    for row, (prompt, branch) in enumerate(sequences(groups)):
        all_logps = plain_logps(model, prompt, branch, temperature)  # (tokens, vocabulary)
        expected = -(all_logps.exp() * all_logps).sum(-1)
        torch.testing.assert_close(found.entropies[row, : len(branch)], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.logps[row, 0], all_logps[0, branch[0]], rtol=1e-5, atol=1e-5)


def test_a_head_of_zeros_gives_the_uniform_distribution(causal: Causal) -> None:
    model = causal(tie_word_embeddings=False)
    model.get_output_embeddings().weight.data.zero_()
    found = response_logps(model, batch_of([PromptBranches([5], [[6, EOS]])]), entropy=True)
    torch.testing.assert_close(found.logps, torch.full((1, 2), -math.log(21)))
    torch.testing.assert_close(found.entropies, torch.full((1, 2), math.log(21)))


@pytest.mark.parametrize(("architecture", "config"), SCALED)
def test_what_a_model_does_to_its_logits_is_done(causal: Causal, architecture: str, config: dict[str, Any]) -> None:
    model, groups = causal(architecture, **config), ragged(5)
    found = response_logps(model, batch_of(groups, takes_shared_rows(model))).logps
    for row, expected in zip(found, plain(model, groups), strict=True):
        torch.testing.assert_close(row[: len(expected)], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_padding_changes_nothing(causal: Causal, architecture: str, shared: bool) -> None:
    model, group = causal(architecture), ragged(6)[0]
    alone = response_logps(model, batch_of([group], shared)).logps
    longer = PromptBranches([3] * 20, [[4] * 20])
    for pad_id in (PAD, EOS, 12):
        padded = response_logps(model, batch_of([group, longer], shared, pad_id)).logps[: len(group.branches), :5]
        torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_neither_batch_mates_nor_order_change_an_example(causal: Causal, seed: int) -> None:
    model, groups = causal("qwen3", pad_is_eos=True), ragged(seed)
    order = random.Random(seed).sample(range(len(groups)), len(groups))
    together = response_logps(model, batch_of([groups[i] for i in order], pad_id=EOS)).logps.sum(1)
    alone = [response_logps(model, batch_of([groups[i]], pad_id=EOS)).logps.sum(1) for i in order]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_a_sibling_is_never_seen(causal: Causal) -> None:
    model, prompt, branch = causal(), [7, 8], [5, 6, EOS]
    found = [
        response_logps(model, batch_of([PromptBranches(prompt, [sibling, branch])])).logps[1]
        for sibling in ([9, 10, 11], [14, 4, EOS])
    ]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize(("architecture", "config"), SEPARATE)
def test_a_model_that_cannot_share_says_so_once_and_is_still_right(
    causal: Causal, caplog: pytest.LogCaptureFixture, architecture: str, config: dict[str, Any]
) -> None:
    model, groups = causal(architecture, **config), ragged(7)
    with caplog.at_level(logging.WARNING, "rlhf_plugins"):
        assert not takes_shared_rows(model)
        assert not takes_shared_rows(model)
    said = [r.message for r in caplog.records if r.name.startswith("rlhf_plugins")]
    assert [message.split(": ")[1].split(", because")[0] for message in said] == [
        "prompts are computed once per response"
    ]
    found = response_logps(model, batch_of(groups, shared=False)).logps
    for row, expected in zip(found, plain(model, groups), strict=True):
        torch.testing.assert_close(row[: len(expected)], expected, rtol=1e-5, atol=1e-5)


def test_a_model_that_ignores_positions_is_found_out_even_at_small_weights(causal: Causal) -> None:
    model = causal(initializer_range=0.02)
    trunk, right = trunk_of(model), trunk_of(model).forward
    trunk.forward = lambda *args, position_ids=None, **rest: right(*args, **rest)
    assert not takes_shared_rows(model)


def test_asking_leaves_the_model_as_it_was(causal: Causal) -> None:
    for architecture in ("llama", "mamba"):
        model = causal(architecture).train()
        takes_shared_rows(model)
        assert all(module.training for module in model.modules())
