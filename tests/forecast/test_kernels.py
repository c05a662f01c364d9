"""What is counted of kernels that no CPU has is what torch keeps around such kernels, and what they allocate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_kernels import as_on_a_gpu, as_with_liger
from marks import slow
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from rlhf_plugins import estimate, set_engine
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.contract.workload import Work
from rlhf_plugins.data.batches.branches import BranchBatch, Layout, PromptBranches, collate
from rlhf_plugins.engine import HALF_NORMS, pretending
from rlhf_plugins.engine.half import gated, trials
from rlhf_plugins.engine.half.norm import fuse_half_norms
from rlhf_plugins.engine.weights import loading
from rlhf_plugins.engine.weights.loading import load_causal, with_adapter
from rlhf_plugins.forecast import fakes, traces
from rlhf_plugins.forecast.fakes import Build, KnownBatch
from rlhf_plugins.forecast.kernels import KERNELS
from rlhf_plugins.forecast.meter import Meter
from rlhf_plugins.forecast.shapes import configuration
from rlhf_plugins.forecast.traces import Found, Setting, assumed, traced
from rlhf_plugins.forecast.words import lines
from rlhf_plugins.testing import tiny_base

WORK = Work("train", "learn", 4, 2, 32, 96)
NORMS, ROTATIONS, GATED = (f"{what} in half precision" for what in ("RMS norms", "rotary embeddings", "gated blocks"))


def trained(checkpointing: bool = False) -> Setting:
    return Setting(Build(None, Adapter(r=4), torch.bfloat16, True, checkpointing), torch.bfloat16, "adamw")


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Its kernels in plain torch, no trial and no trace yet."""
    monkeypatch.setattr(trials, "_PASSED", {})
    monkeypatch.setattr(traces, "_KNOWN", {})
    gated.liger.cache_clear()
    with as_on_a_gpu():
        yield
    gated.liger.cache_clear()


def metered(base: Base, setting: Setting, patch: pytest.MonkeyPatch) -> Found:
    """As a trace, of real tensors, and with kernels that compute and whose steps of autograd are torch's."""

    def model(*_: Any, **__: Any) -> Any:
        made = with_adapter(load_causal(base), setting.build.adapter, "CAUSAL_LM")
        if setting.build.checkpointing:
            made.gradient_checkpointing_enable({"use_reentrant": False})
            made.enable_input_require_grads()
        fakes._settle(made, configuration(base))
        return made.train()

    def batch(groups: list[PromptBranches], layout: Layout, _: Any) -> KnownBatch:
        found = BranchBatch.from_inputs(collate(groups, 0, layout))
        return KnownBatch(**{each.name: getattr(found, each.name) for each in fields(found)})

    patch.setattr(loading, "_dtype", lambda _: torch.bfloat16)
    for name, value in (("KERNELS", {}), ("fake_model", model), ("fake_batch", batch)):
        patch.setattr(traces, name, value)
    patch.setattr(traces, "FakeTensorMode", lambda **_: nullcontext())
    return traces._trace(configuration(base), WORK, setting)


CASES = [("llama", True, False), ("gemma3_text", False, True)]
MORE = [("qwen3", False, False), ("qwen3", True, True), ("llama", False, True), ("gemma3_text", True, False)]


@pytest.mark.parametrize(("architecture", "liger", "checkpointing"), [*CASES, *slow(*MORE)])
def test_a_trace_has_the_bytes_of_the_same_step_with_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, architecture: str, liger: bool, checkpointing: bool
) -> None:
    """In each part of the step, by consumer, to the byte."""
    for module in (fakes, traces):  # a CPU has no kernel for packed groups
        monkeypatch.setattr(module, "layout_on_gpu", lambda *_: Layout.ROWS)
    base, setting = tiny_base(tmp_path / architecture, architecture), trained(checkpointing)
    with as_with_liger(monkeypatch) if liger else nullcontext(), monkeypatch.context() as patch:
        found = traces._trace(configuration(base), WORK, setting)
        exact = metered(base, setting, patch)
    assert found.peaks == exact.peaks
    assert found.assumed == exact.assumed
    assert {NORMS, ROTATIONS, *([GATED] * liger)} <= found.assumed


@pytest.mark.parametrize(("kind", "single"), [(LlamaRMSNorm, 0), (Gemma3RMSNorm, 4)])
def test_what_a_norm_allocates_worked_by_hand(kind: Any, single: int) -> None:
    """Of 40 rows of 48 numbers: 2 bytes each, 4 for 1 / rms of a row; of 1 + w input and result in float32 too."""
    made = fuse_half_norms(kind(48).bfloat16().requires_grad_(False))
    x, towards = torch.randn(40, 48).bfloat16().requires_grad_(), torch.randn(40, 48).bfloat16()
    with pretending("cuda", KERNELS), Meter(block=1) as meter:
        output = made(x)
        weights = 48 * single  # 1 + w
        assert meter.now == 40 * 48 * (2 + single) + 40 * 4 + weights
        meter.begin("backward")
        (grad,) = torch.autograd.grad(output, x, towards)
    kept = 40 * 48 * (2 + single) + 40 * 4 + weights  # result, and what autograd keeps
    assert sum(meter.peaks["backward"].values()) == kept + 40 * 48 * (2 + single * 2 - 2 * bool(single))
    assert grad.shape == x.shape


def test_what_a_gated_block_allocates_worked_by_hand() -> None:
    """Its result, of 40 rows of 64 numbers of 2 bytes; the gradients take the place of gate and up."""
    gate, up = (torch.randn(40, 64).bfloat16().requires_grad_() * 1 for _ in range(2))
    towards = torch.randn(40, 64).bfloat16()
    with Meter(block=1) as meter:
        result = gated.gated(gate, up, KERNELS[gated.liger]("swiglu"))
        meter.begin("backward")
        grads = torch.autograd.grad(result, (gate, up), towards)
    assert meter.peaks == {"": {"activations": 40 * 64 * 2}, "backward": {"activations": 40 * 64 * 2}}
    assert [each.data_ptr() for each in grads] == [gate.data_ptr(), up.data_ptr()]


def test_a_kernel_reads_a_copy_of_what_is_not_contiguous() -> None:
    made = fuse_half_norms(LlamaRMSNorm(48).bfloat16().requires_grad_(False))
    x = torch.randn(5, 8, 48).bfloat16().transpose(0, 1).requires_grad_()
    with pretending("cuda", KERNELS), Meter(block=1) as meter:
        output = made(x)
    assert output.is_contiguous()
    assert sum(meter.peaks[""].values()) == 2 * 40 * 48 * 2 + 40 * 4
    assert meter.now == 40 * 48 * 2 + 40 * 4


def test_a_path_that_failed_on_a_card_and_the_plain_engine_are_counted_plainly() -> None:
    """transformers' norms keep x in float32, these in bf16: of 28 layers with two of 1024, 16 of 128 and 8 of 128."""
    config, setting = configuration(Base("Qwen/Qwen3-0.6B")), trained()
    found = [sum(traced(config, WORK, setting).values())]
    assert {NORMS, ROTATIONS} <= assumed(config, WORK, setting)
    trials.passes(HALF_NORMS, torch.device("cuda", 0), "key", lambda: False)
    found.append(sum(traced(config, WORK, setting).values()))
    assert NORMS not in assumed(config, WORK, setting)
    with set_engine("plain"):
        found.append(sum(traced(config, WORK, setting).values()))
        assert not assumed(config, WORK, setting)
    tokens = 4 * (32 + 2 * 96)
    assert found[1] - found[0] == 28 * (2 * 1024 + 24 * 128) * tokens * 2
    assert found[2] > found[1]


def test_a_forecast_says_what_it_assumes() -> None:
    stage = {"stage": "preference", "trainer": {"max_length": 64, "per_device_train_batch_size": 4}}
    recipe = {"base": "sandbox", "data": "sandbox", "output_dir": "out", "stages": [stage]}
    found, plain = (estimate({**recipe, "engine": engine}) for engine in ("auto", "plain"))
    assert {NORMS, ROTATIONS} <= set(found.json()["stages"][0]["assumed"])
    (line,) = [each for each in lines(found, {}) if "trials" in each]
    assert line.startswith("assumes that these pass their trials on the card: LoRA layers in half precision, RMS norms")
    assert plain.json()["stages"][0]["assumed"] == []
    assert not [each for each in lines(plain, {}) if "trials" in each]
    assert plain.needed > found.needed
