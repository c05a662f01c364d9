"""Packed groups, shared rows, separate rows and single sequences give one and the same number and gradient."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from rlhf_plugins.data.batches.branches import Layout, PromptBranches
from rlhf_plugins.engine import probing
from rlhf_plugins.engine.attention import packed_mask
from rlhf_plugins.engine.forward import inner_of, probe_ids, sequence_states, states_at, trunk_of
from rlhf_plugins.engine.log_probs import response_logps
from rlhf_plugins.engine.probing import layout_of

from .conftest import EOS, PAD, batch_of, plain_logps, ragged, sequences

Causal = Callable[..., Any]
WINDOW = {"sliding_window": 3}  # fewer tokens than the sequences have
PACKING = [
    *((name, {}) for name in ("llama", "qwen3", "gpt2", "gemma", "opt", "mixtral", "olmo2")),
    *((name, WINDOW) for name in ("mistral", "gemma2", "gemma3_text")),
]
IDS = [f"{name}{'-window' * bool(config)}" for name, config in PACKING]
SEPARATE = ["mamba", "mpt", "bloom", "gpt_oss"]
SCALED = [
    ("granite", {"logits_scaling": 4.0}),
    ("cohere", {}),
    ("gemma2", {}),
    ("recurrent_gemma", {"logits_soft_cap": 0.5, "num_hidden_layers": 3}),
]


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


def gradients(model: Any, groups: list[PromptBranches], layout: Layout = Layout.PACKED) -> Tensor:
    model.zero_grad()
    weighted(response_logps(model, batch_of(groups, layout)).logps).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def adapted(model: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(model, config).eval()


def agrees(model: Any, layout: Layout, groups: list[PromptBranches], rounding: float = 1e-5) -> None:
    found, separate = (response_logps(model, batch_of(groups, each)).logps for each in (layout, Layout.SEPARATE))
    assert worst(found, separate) < rounding
    assert worst(gradients(model, groups, layout), gradients(model, groups, Layout.SEPARATE)) < rounding


def test_below_a_head_and_below_an_adapter_are_the_models_of_transformers(causal: Causal) -> None:
    plain_model = causal()
    assert (inner_of(plain_model), trunk_of(plain_model)) == (plain_model, plain_model.model)
    adapted = get_peft_model(plain_model, LoraConfig(r=2))
    assert (inner_of(adapted), trunk_of(adapted)) == (plain_model, plain_model.model)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize(("architecture", "config"), PACKING, ids=IDS)
def test_packed_groups_equal_separate_rows(causal: Causal, architecture: str, config: Any, lora: bool) -> None:
    model = causal(architecture, **config)
    model = adapted(model) if lora else model
    assert layout_of(model) is Layout.PACKED
    agrees(model, Layout.PACKED, ragged())


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_shared_rows_equal_separate_ones(causal: Causal, architecture: str) -> None:
    agrees(causal(architecture), Layout.ROWS, ragged())


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_in_float64_they_equal_to_ten_digits(causal: Causal, lora: bool) -> None:
    model = causal("gpt2")  # others normalise in float32 whatever they are given
    model = (adapted(model) if lora else model).double()
    assert layout_of(model) is Layout.PACKED
    assert response_logps(model, batch_of(ragged(1))).logps.dtype == torch.float64
    agrees(model, Layout.PACKED, ragged(1), 1e-10)


@pytest.mark.parametrize("lengths", [(5,), (5, 5), (2, 6, 3)], ids=str)
def test_neighbours_of_one_layout_are_computed_together_and_alike(causal: Causal, lengths: tuple[int, ...]) -> None:
    draw = random.Random(0)

    def group(prompt: int, *branches: int) -> PromptBranches:
        ids = [[draw.randrange(5, 20) for _ in range(length)] for length in (prompt, *branches)]
        return PromptBranches(ids[0], ids[1:])

    groups = [group(4, *lengths) for _ in range(3)] + [group(7, 3)] + [group(4, *lengths) for _ in range(2)]
    model = causal("gpt2").double()
    assert layout_of(model) is Layout.PACKED
    assert len(packed_mask(batch_of(groups)).packed.runs) == 3
    agrees(model, Layout.PACKED, groups, 1e-10)


def test_keys_and_values_that_heads_share_are_saved_once(causal: Causal) -> None:
    model, batch = causal(num_attention_heads=4, num_key_value_heads=2, head_dim=8), batch_of(ragged())
    layout_of(model)
    saved: list[tuple[int, ...]] = []

    def noted(tensor: Tensor) -> Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        response_logps(model, batch)
    heads = [shape[1] for shape in saved if shape[2:] == (batch.input_ids.numel(), 8)]
    layers = model.config.num_hidden_layers
    assert (heads.count(4), heads.count(2)) == (2 * layers, 2 * layers)  # queries and outputs; keys and values


def test_in_bfloat16_they_equal_to_its_rounding(causal: Causal) -> None:
    model, groups = causal().to(torch.bfloat16), ragged(1)
    assert layout_of(model) is Layout.PACKED
    packed, separate = (
        response_logps(model, batch_of(groups, layout)).logps for layout in (Layout.PACKED, Layout.SEPARATE)
    )
    assert packed.dtype == torch.float32
    assert worst(packed, separate) < 0.03


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_under_autocast_they_equal_to_bfloat16s_rounding(causal: Causal, architecture: str) -> None:
    model, groups = causal(architecture), ragged(1)
    assert layout_of(model) is Layout.PACKED
    with torch.autocast("cpu", torch.bfloat16):
        packed, separate = (response_logps(model, batch_of(groups, each)) for each in (Layout.PACKED, Layout.SEPARATE))
    assert packed.logps.dtype == torch.float32
    assert worst(packed.logps, separate.logps) < 0.03
    packed.logps.sum().backward()
    assert all(weights.grad.isfinite().all() for weights in model.parameters())


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_gradient_checkpointing_changes_nothing(causal: Causal, architecture: str) -> None:
    model, groups = causal(architecture), ragged(8)
    layout_of(model)
    expected = gradients(model, groups)
    model.gradient_checkpointing_enable()
    model.train()
    assert worst(gradients(model, groups), expected) < 1e-5


def test_attention_dropout_drops_in_packed_rows(causal: Causal) -> None:
    model, batch = causal(attention_dropout=0.5), batch_of(ragged(8))
    layout_of(model)
    assert torch.equal(response_logps(model, batch).logps, response_logps(model, batch).logps)
    model.train()
    assert not torch.equal(response_logps(model, batch).logps, response_logps(model, batch).logps)


def test_a_layout_that_gives_nan_is_not_taken(causal: Causal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_difference", lambda *_: (float("nan"), None))
    assert layout_of(causal()) is Layout.SEPARATE


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_generation_is_what_it_was(causal: Causal, architecture: str) -> None:
    model, ids = causal(architecture), torch.tensor([[5, 6, 7, 8], [PAD, PAD, 6, 7]])
    options = {"attention_mask": (ids != PAD).long(), "max_new_tokens": 5, "do_sample": False, "pad_token_id": PAD}
    before = model.generate(ids, **options)
    assert layout_of(model) is Layout.PACKED
    assert torch.equal(model.generate(ids, **options), before)


def test_the_last_layer_works_on_the_wanted_places_alone(causal: Causal) -> None:
    model, batch = causal(), batch_of(ragged(9))
    layout_of(model)
    trunk, seen, places = trunk_of(model), [], torch.tensor([7, 3, 7])
    for layer in trunk.layers:
        layer.mlp.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    expected = sequence_states(trunk, batch).flatten(0, 1)[[list(batch.index.flatten()).index(int(p)) for p in places]]
    seen.clear()
    torch.testing.assert_close(states_at(trunk, batch, places), expected)
    assert seen == [batch.input_ids.numel(), 2]


@pytest.mark.parametrize(("architecture", "config"), PACKING, ids=IDS)
def test_log_probabilities_are_those_of_each_sequence_alone(causal: Causal, architecture: str, config: Any) -> None:
    model, groups = causal(architecture, **config), ragged(2)
    layout_of(model)
    found = response_logps(model, batch_of(groups))
    for row, expected in zip(found.logps, plain(model, groups), strict=True):
        torch.testing.assert_close(row[: len(expected)], expected, rtol=1e-5, atol=1e-5)
        assert not row[len(expected) :].any()


def test_gradients_are_those_of_each_sequence_alone(causal: Causal) -> None:
    model, groups = causal("gpt2"), ragged(3)
    layout_of(model)
    found = gradients(model, groups)
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
    found = response_logps(model, batch_of(groups, layout_of(model))).logps
    for row, expected in zip(found, plain(model, groups), strict=True):
        torch.testing.assert_close(row[: len(expected)], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_padding_changes_nothing(causal: Causal, architecture: str, layout: Layout) -> None:
    model, group = causal(architecture), ragged(6)[0]
    layout_of(model)
    alone = response_logps(model, batch_of([group], layout)).logps
    longer = PromptBranches([3] * 20, [[4] * 20])
    for pad_id in (PAD, EOS, 12):
        padded = response_logps(model, batch_of([group, longer], layout, pad_id)).logps[: len(group.branches), :5]
        torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_neither_batch_mates_nor_order_change_an_example(causal: Causal, seed: int) -> None:
    model, groups = causal("qwen3", pad_is_eos=True), ragged(seed)
    layout_of(model)
    order = random.Random(seed).sample(range(len(groups)), len(groups))
    together = response_logps(model, batch_of([groups[i] for i in order], pad_id=EOS)).logps.sum(1)
    alone = [response_logps(model, batch_of([groups[i]], pad_id=EOS)).logps.sum(1) for i in order]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_a_sibling_is_never_seen(causal: Causal) -> None:
    model, prompt, branch = causal(), [7, 8], [5, 6, EOS]
    layout_of(model)
    found = [
        response_logps(model, batch_of([PromptBranches(prompt, [sibling, branch])])).logps[1]
        for sibling in ([9, 10, 11], [14, 4, EOS])
    ]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("architecture", SEPARATE)
def test_a_model_that_cannot_share_says_so_once_and_is_still_right(
    causal: Causal, caplog: pytest.LogCaptureFixture, architecture: str
) -> None:
    model, groups = causal(architecture), ragged(7)
    with caplog.at_level(logging.WARNING, "rlhf_plugins"):
        assert layout_of(model) is Layout.SEPARATE
        assert layout_of(model) is Layout.SEPARATE
    said = [r.message for r in caplog.records if r.name.startswith("rlhf_plugins")]
    assert [message.split(": ")[1].split(", because")[0] for message in said] == [
        "prompts are computed once per response"
    ]
    found = response_logps(model, batch_of(groups, Layout.SEPARATE)).logps
    for row, expected in zip(found, plain(model, groups), strict=True):
        torch.testing.assert_close(row[: len(expected)], expected, rtol=1e-5, atol=1e-5)


def test_a_model_that_ignores_positions_is_found_out_even_at_small_weights(causal: Causal) -> None:
    model = causal(initializer_range=0.02)
    trunk, right = trunk_of(model), trunk_of(model).forward
    trunk.forward = lambda *args, position_ids=None, **rest: right(*args, **rest)
    assert layout_of(model) is Layout.SEPARATE


def test_asking_leaves_the_model_as_it_was(causal: Causal) -> None:
    for architecture in ("llama", "mamba"):
        model = causal(architecture).train()
        layout_of(model)
        assert all(module.training for module in model.modules())


def test_what_is_saved_loads_without_us(causal: Causal, tmp_path: Path) -> None:
    model = causal()
    assert layout_of(model) is Layout.PACKED
    model.save_pretrained(tmp_path)
    assert "rlhf" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize(("size", "first"), [(3, [0, 1, 0]), (4, [0, 1, 2]), (7, [0, 1, 2]), (9, [5, 6, 7])])
def test_a_trial_has_tokens_of_a_small_vocabulary_and_its_last_differs_from_its_first(
    size: int, first: list[int]
) -> None:
    config = SimpleNamespace(vocab_size=size)
    ids = probe_ids(SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: config)), 8)
    assert ids[:3] == first
    assert max(ids) < size
    assert ids[-1] != ids[0]
