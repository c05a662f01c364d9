"""What is computed in which precision: without float32 where nothing needs it, and never in emulated bfloat16."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trl
from peft import prepare_model_for_kbit_training

from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.data.batches.branches import BranchBatch, Layout, PromptBranches, collate
from rlhf_plugins.engine import forward, sampling
from rlhf_plugins.engine.forward import sequence_states, trunk_of
from rlhf_plugins.engine.log_probs import response_logps
from rlhf_plugins.engine.precision import computes_in_bf16, on_one_gpu
from rlhf_plugins.engine.sampling import Decoding, sample
from rlhf_plugins.engine.token_budget import cache_at_once, in_batches, room, tokens_at_once
from rlhf_plugins.engine.weights import loading
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer, with_adapter
from rlhf_plugins.errors import RunError
from rlhf_plugins.sandbox import POLICY
from rlhf_plugins.testing import tiny_base
from rlhf_plugins.trainers.constructor import split_arguments
from rlhf_plugins.trainers.reward.options import RewardOptions

NF4 = Base(str(POLICY), quantization="nf4", adapter=Adapter(r=8))


def losses(model: Any, steps: int = 12) -> list[float]:
    """Of a language model that learns two responses, under bfloat16 autocast as on a GPU."""
    torch.manual_seed(0)
    tuned = with_adapter(model, NF4.adapter, "CAUSAL_LM")
    batch = BranchBatch.from_inputs(
        collate([PromptBranches([*range(20, 40)], [[*range(40, 60)], [*range(60, 75)]])], 0)
    )
    optimizer = torch.optim.AdamW([w for w in tuned.parameters() if w.requires_grad], lr=3e-3)
    found = []
    for _ in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = -response_logps(tuned, batch).logps.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.slow
def test_a_quantized_base_in_bfloat16_learns_as_one_that_is_half_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_dtype", lambda base: torch.bfloat16)
    plain = load_causal(NF4)
    assert {w.dtype for w in plain.parameters()} == {torch.uint8, torch.bfloat16}  # no float32 copy of anything
    upcast = prepare_model_for_kbit_training(load_causal(NF4), use_gradient_checkpointing=False)
    one, other = losses(plain), losses(upcast)
    assert one[-1] < 0.6 * one[0]
    assert one == pytest.approx(other, rel=0.02)


def test_what_is_trained_on_a_quantized_base_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_dtype", lambda base: torch.bfloat16)
    tuned = with_adapter(load_causal(NF4), NF4.adapter, "CAUSAL_LM")
    assert {w.dtype for w in tuned.parameters() if w.requires_grad} == {torch.float32}


def test_bfloat16_that_is_emulated_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not computes_in_bf16()


def test_of_several_gpus_one_is_used(caplog: pytest.LogCaptureFixture) -> None:
    args = SimpleNamespace(n_gpu=2, _n_gpu=2)
    assert on_one_gpu(args)._n_gpu == 1
    assert "one of 2 GPUs is used" in caplog.text


def test_weights_go_straight_to_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: str, **options: Any) -> None:
        raise OSError(f"placed: {options.get('device_map')}")

    base = Base(str(POLICY))
    with pytest.raises(RunError, match="placed: None"):
        loading._load(SimpleNamespace(from_pretrained=refused), base)
    monkeypatch.setattr(loading, "device", lambda: torch.device("cuda"))
    with pytest.raises(RunError, match=r"placed: {'': device\(type='cuda'\)}"):
        loading._load(SimpleNamespace(from_pretrained=refused), base)


def test_of_several_gpus_a_script_uses_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    args = trl.RewardConfig(str(tmp_path), use_cpu=True, bf16=False)
    args._n_gpu = 2
    split_arguments(trl.RewardTrainer, RewardOptions, [SimpleNamespace(), args], {})
    assert args.n_gpu == 1
    assert "one of 2 GPUs is used" in caplog.text


def test_rows_of_a_mask_begin_at_multiples_of_8() -> None:
    for width in (7, 8, 9):
        groups = [PromptBranches([*range(5, 5 + width - 2)], [[5], [6]])]
        mask = BranchBatch.from_inputs(collate(groups, 0, Layout.ROWS)).attention_mask(torch.float32)
        assert mask.shape == (1, 1, width, width)
        assert mask.stride(2) == -(-width // 8) * 8


def masked(trunk: Any) -> tuple[torch.Tensor, int]:
    """Hidden states under autocast of a row of 23 tokens, and how many masks autograd keeps for its layers."""
    groups, kept = [PromptBranches([*range(5, 15)], [[7] * 6, [9] * 7])], list[torch.Tensor]()
    batch = BranchBatch.from_inputs(collate(groups, 0, Layout.ROWS))
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each)
    with torch.autocast("cpu", torch.bfloat16), hooks:
        states = sequence_states(trunk, batch)
    return states, len({each.untyped_storage().data_ptr() for each in kept if each.shape == (1, 1, 23, 23)})


def test_autocast_casts_no_mask_so_that_layers_keep_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a model in float32 with two layers; the states are those under the mask in float32, bit for bit."""
    trunk = trunk_of(load_causal(tiny_base(tmp_path / "base")))
    states, masks = masked(trunk)
    monkeypatch.setattr(forward, "_attends_in", lambda trunk: trunk.dtype)
    before, more = masked(trunk)
    assert torch.equal(states, before)
    assert (masks, more) == (1, 2)


def test_a_stage_says_how_much_is_in_memory_at_once() -> None:
    assert (tokens_at_once(), cache_at_once("cuda"), cache_at_once("cpu")) == (8_192, 16_384, None)
    with room(100, 50):
        assert (tokens_at_once(), cache_at_once("cuda"), cache_at_once("cpu")) == (100, 50, 50)
        with room(None):
            assert (tokens_at_once(), cache_at_once("cpu")) == (8_192, None)
    assert tokens_at_once() == 8_192


def test_batches_of_rows_and_tokens_by_hand() -> None:
    def parts(rows: int, tokens: int | None) -> list[tuple[int, int]]:
        return [(part.start, part.stop) for part in in_batches([2, 2, 4, 9, 1], rows, tokens)]

    assert parts(9, None) == [(0, 5)]
    assert parts(2, None) == [(0, 2), (2, 4), (4, 5)]
    assert parts(9, 8) == [(0, 2), (2, 3), (3, 4), (4, 5)]  # 3 rows of 4 are 12 tokens; a row alone may have more
    assert parts(9, 12) == [(0, 3), (3, 4), (4, 5)]


def test_a_smaller_cache_samples_the_same_greedy_responses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base(tmp_path)
    model, tokenizer = load_causal(base), load_tokenizer(base)

    def responses() -> list[list[int]]:
        found = sample(model, tokenizer, ["how is", "what", "why the how"], 2, Decoding(6, temperature=0.0))
        return [list(ids) for ids in found.response_ids]

    whole, calls, own = responses(), list[int](), sampling._generate
    monkeypatch.setattr("rlhf_plugins.engine.token_budget.cached_at_once", lambda model: 16)
    monkeypatch.setattr(sampling, "_generate", lambda *given: calls.append(len(given[2])) or own(*given))
    assert responses() == whole
    assert calls == [2, 2, 1, 1]
