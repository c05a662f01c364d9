"""NF4 and int8 bases train an adapter in every stage, and the adapter opens again with the same output."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from handed import folder_of, saved_policy
from marks import slow
from safetensors.torch import load_file

from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.data.batches.branches import BranchBatch, Layout, PromptBranches, collate
from rlhf_plugins.engine.log_probs import response_logps
from rlhf_plugins.engine.probing import layout_of
from rlhf_plugins.engine.weights.loading import load_causal, with_adapter
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.opening import latest_reward
from rlhf_plugins.reward_models.reward_model import open_reward_model
from rlhf_plugins.testing import tiny_base, tiny_run

from .test_training_stages import IDS, online, preference, reward, run_for, sft

ADAPTER = "adapter_model.safetensors"
QUANTIZATIONS = pytest.mark.parametrize("quantization", ["nf4", "int8"])
FOUR_BITS = pytest.mark.parametrize("quantization", ["nf4", *slow("int8")])
SAMPLES = Samples(["how"] * 2, ["ant", "gas"], [[15], [15]], [[3, 4, 5, 1], [9, 10, 11, 1]])


def quantized(folder: Path, quantization: str) -> Base:
    """Wide enough for blocks of 64 weights."""
    sizes = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}
    return replace(tiny_base(folder, "llama", **sizes), quantization=quantization, adapter=Adapter(r=4))


@torch.no_grad()  # with a gradient bitsandbytes takes another kernel, which rounds otherwise
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits


@QUANTIZATIONS
def test_packed_groups_equal_separate_rows(tmp_path: Path, quantization: str) -> None:
    base = quantized(tmp_path, quantization)
    model = with_adapter(load_causal(base), base.adapter, "CAUSAL_LM").eval()
    assert layout_of(model) is Layout.PACKED
    found = []
    for layout in (Layout.PACKED, Layout.SEPARATE):
        batch = collate([PromptBranches([15, 16], [[3, 4, 1], [9, 1]]), PromptBranches([17], [[5, 1]])], 0, layout)
        model.zero_grad()
        logps = response_logps(model, BranchBatch.from_inputs(batch)).logps
        logps.sum().backward()
        pulled = torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])
        found.append((logps.detach(), pulled))
    for packed, separate in zip(*found, strict=True):
        rounding = 1e-5 if quantization == "nf4" else 0.1  # int8 rounds a token by the others in its batch
        assert (packed - separate).abs().max() < rounding * separate.abs().max()


@FOUR_BITS
@pytest.mark.parametrize("stage", [preference, online])
def test_a_policy_on_a_quantized_base_opens_again(tmp_path: Path, quantization: str, stage: Callable[[], Any]) -> None:
    base = quantized(tmp_path / "base", quantization)
    result = stage().run(run_for(base, tmp_path / "run"))
    first, second = (logits(saved_policy(base, folder_of(result.policies))) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert (first - logits(load_causal(base))).abs().max() > 0.01
    adapter = load_file(folder_of(result.policies) / "adapter_model.safetensors")
    assert {weights.dtype for weights in adapter.values()} == {torch.float32}


@QUANTIZATIONS
def test_what_was_trained_is_what_is_saved(tmp_path: Path, quantization: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits of the trainer's own model, at the moment it is saved, are those of the opened one."""
    from peft import PeftModel

    base, seen = quantized(tmp_path / "base", quantization), []
    save = PeftModel.save_pretrained

    def watched(model: PeftModel, *args: object, **options: object) -> None:
        seen.append(logits(model.eval()))
        save(model, *args, **options)

    monkeypatch.setattr(PeftModel, "save_pretrained", watched)
    result = preference().run(run_for(base, tmp_path / "run"))
    # Some CPUs run NF4 in bfloat16, and bitsandbytes rounds its scales again when such a model is moved or saved.
    rounding = {"nf4": 2e-2, "int8": 1e-5}[quantization] * seen[0].abs().max()
    loaded = logits(saved_policy(base, folder_of(result.policies)))
    torch.testing.assert_close(loaded, seen[0], rtol=0, atol=float(rounding))


@FOUR_BITS
def test_a_reward_model_on_a_quantized_base_opens_again(tmp_path: Path, quantization: str) -> None:
    base = quantized(tmp_path / "base", quantization)
    result = reward(max_steps=10).run(run_for(base, tmp_path / "run"))
    score = latest_reward(run_for(base, tmp_path / "later", result))
    assert score is not None
    assert open_reward_model(folder_of(result.rewards), component).score(SAMPLES, 0) == score(SAMPLES).reward.tolist()
    assert result.curves["loss"].points[-1][1] < result.curves["loss"].points[0][1]


@QUANTIZATIONS
def test_supervised_training_of_a_quantized_base_is_merged_into_the_plain_one(
    tmp_path: Path, quantization: str
) -> None:
    base = quantized(tmp_path / "base", quantization)
    result = sft().run(run_for(base, tmp_path / "run"))
    assert {weights.dtype for weights in load_file(folder_of(result.policies) / ADAPTER).values()} == {torch.float32}
    run = tiny_run(base, tmp_path / "outer", finished=[replace(result, name="sft")])
    merged = run.train(component("stage", {"use": "merge", "from": "sft"}), name="merged")
    moved = logits(load_causal(Base(str(merged.base)))) - logits(load_causal(Base(base.path)))
    assert 0.01 < moved.abs().max() < 10


def test_a_reward_model_on_a_quantization_of_its_own(tmp_path: Path) -> None:
    base = replace(quantized(tmp_path / "base", "nf4"), quantization=None)
    own = replace(reward(), quantization="nf4")
    result = own.run(run_for(base, tmp_path / "run"))
    described = json.loads((folder_of(result.rewards) / "reward_model.json").read_text())
    assert described["base"]["quantization"] == "nf4"
    opened = open_reward_model(folder_of(result.rewards), component)
    assert {w.dtype for w in opened.trunk.parameters()} >= {torch.uint8}
    assert opened.score(SAMPLES, 0)[0] != opened.score(SAMPLES, 0)[1]
    assert own.workload(base.adapter).quantization == "nf4"
    with pytest.raises(ValueError, match="needs an adapter"):
        own.fits(None)
