"""Costs, against torch's own counter of FLOPs and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from marks import slow
from torch.utils.flop_counter import FlopCounterMode

from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.data.batches.branches import Layout
from rlhf_plugins.engine import set_engine
from rlhf_plugins.engine.backbone import Backbone
from rlhf_plugins.engine.cost import add, counting, scoring
from rlhf_plugins.engine.forward import is_causal, trimmed_states_at, trunk_of
from rlhf_plugins.engine.log_probs import response_logps
from rlhf_plugins.engine.policy import ModelPolicy
from rlhf_plugins.engine.weights.loading import freeze_below, load_causal, with_adapter
from rlhf_plugins.testing import tiny_base

from .conftest import batch_of, ragged

IDS = torch.arange(4 * 12).view(4, 12) % 20


def loaded(folder: Path, adapter: Adapter | None = None, architecture: str = "llama") -> Any:
    """A model whose attention is plain products, all of which torch counts."""
    torch.manual_seed(0)
    layers = {"n_layer" if architecture == "gpt2" else "num_hidden_layers": 4}
    model = load_causal(tiny_base(folder, architecture, **layers))
    model.set_attn_implementation("eager")
    return with_adapter(model, adapter, "CAUSAL_LM")


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "qwen3"])
def test_a_forward_pass_costs_what_torch_counts(tmp_path: Path, architecture: str) -> None:
    model = loaded(tmp_path, architecture=architecture).eval()
    with counting() as counter, FlopCounterMode(display=False) as expected, torch.no_grad():
        model(IDS)
    assert counter.flops == pytest.approx(expected.get_total_flops(), rel=1e-3)
    assert counter.cost().trained_tokens == 0


def test_a_token_pays_for_the_experts_that_it_goes_through(tmp_path: Path) -> None:
    """Per layer and token 2 * 32 * (32 + 16) in the attention's products and 2 experts of 3 * 32 * 64; per pair of
    tokens 2 * 32; and the head's 32 * 21 per token. Two layers, 48 tokens, 4 * 12^2 pairs; the router is left out."""
    model = load_causal(tiny_base(tmp_path, "mixtral", num_local_experts=4, num_experts_per_tok=2)).eval()
    with counting() as counter, torch.no_grad():
        model(IDS)
    by_token = 2 * (2 * 32 * (32 + 16) + 2 * 3 * 32 * 64) + 32 * 21
    assert counter.flops == 2 * (48 * by_token + 2 * 2 * 32 * 4 * 12**2)


@pytest.mark.parametrize("adapter", [None, Adapter(r=4), Adapter(r=4, target_modules=["q_proj", "down_proj"])])
def test_a_training_pass_costs_what_torch_counts(tmp_path: Path, adapter: Adapter | None) -> None:
    with set_engine("plain"):
        model = loaded(tmp_path, adapter).train()
        with counting() as counter, FlopCounterMode(display=False) as expected:
            model(IDS).logits.sum().backward()
    assert counter.flops == pytest.approx(expected.get_total_flops(), rel=0.03)
    assert counter.cost().trained_tokens == 48


def test_a_recomputed_pass_is_counted_twice(tmp_path: Path) -> None:
    with set_engine("plain"):
        model = loaded(tmp_path).train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        with counting() as counter, FlopCounterMode(display=False) as expected:
            model(IDS).logits.sum().backward()
    assert counter.flops == pytest.approx(
        expected.get_total_flops(), rel=0.06
    )  # the last product of a layer is not recomputed


def test_shared_prompts_cost_less_than_separate_rows(tmp_path: Path) -> None:
    model, groups = load_causal(tiny_base(tmp_path)).eval(), ragged()
    costs = []
    for layout in (Layout.SEPARATE, Layout.PACKED):
        response_logps(model, batch_of(groups, layout))  # the trials of a first batch
        with counting() as counter, torch.no_grad():
            response_logps(model, batch_of(groups, layout))
        costs.append(counter.flops)
    assert costs[1] < 0.8 * costs[0]


def test_the_head_costs_only_where_a_token_is_predicted(tmp_path: Path) -> None:
    with set_engine("plain"):
        model = loaded(tmp_path).eval()
        batch = batch_of(ragged(), Layout.SEPARATE)
        response_logps(model, batch)  # runs the trials, which are not counted
        with counting() as counter, FlopCounterMode(display=False) as expected, torch.no_grad():
            response_logps(model, batch)
    assert counter.flops == pytest.approx(expected.get_total_flops(), rel=0.01)


def saved_by_trimming(trunk: Any) -> tuple[float, float, int]:
    """FLOPs that the last layer saves at all but the last tokens, ours and torch's, and the tokens that it skips."""
    batch, costs = batch_of(ragged(), Layout.SEPARATE), []
    assert is_causal(trunk)
    for places in (torch.arange(batch.input_ids.numel()), batch.last):
        with counting() as counter, FlopCounterMode(display=False) as expected:
            states = trimmed_states_at(trunk, batch, places).sum()
            if states.requires_grad:
                states.backward()
        costs.append((counter.flops, expected.get_total_flops()))
    (ours, theirs), (our_few, their_few) = costs
    return ours - our_few, theirs - their_few, batch.input_ids.numel() - len(batch.last)


@pytest.mark.parametrize("trained", ["lora", "none", *slow("all", "last layer", "lora of the last block")])
def test_a_trimmed_last_layer_saves_what_torch_counts(tmp_path: Path, trained: str) -> None:
    targets = ["model.layers.3.mlp.down_proj"] if trained == "lora of the last block" else "all-linear"
    with set_engine("plain"):
        trunk = trunk_of(loaded(tmp_path, Adapter(r=4, target_modules=targets) if "lora" in trained else None)).train()
        if trained in ("last layer", "none"):
            freeze_below(trunk, int(trained == "last layer"))
        ours, theirs, _ = saved_by_trimming(trunk)
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_experts_that_are_skipped_cost_nothing(tmp_path: Path) -> None:
    """A token that is skipped saves 2 experts of 3 * 32 * 64, forward and twice backward."""
    trunk = trunk_of(load_causal(tiny_base(tmp_path, "mixtral", num_local_experts=4, num_experts_per_tok=2))).train()
    saved, _, skipped = saved_by_trimming(trunk)
    assert saved == skipped * 2 * 3 * (2 * 3 * 32 * 64)


def test_generated_tokens_and_their_passes_are_counted(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    policy = ModelPolicy(Backbone(loaded(tmp_path).eval(), base))
    with counting() as counter, FlopCounterMode(display=False) as expected:
        samples = policy.sample(["how is the\n", "who is the\n"], n=3, max_new_tokens=5)
    assert counter.generated_tokens == sum(map(len, samples.response_ids))
    assert counter.flops == pytest.approx(expected.get_total_flops(), rel=0.01)


def test_counters_that_are_open_at_once_all_count() -> None:
    with counting() as outer:
        add(flops=1.0, generated_tokens=2)
        with counting() as inner:
            add(flops=3.0)
    add(flops=5.0)
    assert (outer.flops, outer.generated_tokens, inner.flops) == (4.0, 2, 3.0)
    assert outer.seconds == outer.seconds >= inner.seconds


def test_a_reward_made_of_others_counts_its_responses_once() -> None:
    with counting() as counter, scoring(4), scoring(4):
        pass
    with scoring(3):
        pass
    assert counter.cost().reward_calls == 4
