"""What is traced without numbers is what torch's allocator counts, and what a GPU took."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from marks import slow
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile
from transformers import Lfm2Config, Qwen3Config, Qwen3ForCausalLM

from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.contract.workload import Work
from rlhf_plugins.data.batches.branches import Layout
from rlhf_plugins.engine import casts, pretending
from rlhf_plugins.engine.half import four_bit
from rlhf_plugins.engine.half import lora as half_lora
from rlhf_plugins.engine.varlen import Flash, attention, row_sequences
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer, lora_config
from rlhf_plugins.forecast import fakes, generation, traces
from rlhf_plugins.forecast.fakes import Build
from rlhf_plugins.forecast.forecast import SHARE, WORKSPACES
from rlhf_plugins.forecast.meter import Meter, allocating
from rlhf_plugins.forecast.shapes import configuration, period
from rlhf_plugins.forecast.traces import Setting, laid_out, traced
from rlhf_plugins.recipe.public import component
from rlhf_plugins.sandbox import POLICY
from rlhf_plugins.trainers.arguments import arguments
from rlhf_plugins.trainers.preference.trainer import PreferenceTrainer

MEASURED = Path(__file__).parents[3] / "shared" / "gpu" / "memory.json"
PROMPT, RESPONSE = 32, 96
BASE = Base(str(POLICY), adapter=Adapter(r=16))


def test_each_part_of_a_work_has_its_own_peak() -> None:
    with Meter(block=1) as meter:
        kept = torch.empty(10)
        meter.begin("later")
        del kept
        assert meter.peaks == {"": {"activations": 40}, "later": {"activations": 40}}  # it was there as that began
        other = torch.empty(5)
        meter.begin("last")
        del other
        more = torch.empty(3), torch.empty(3)
    assert meter.peaks["last"] == {"activations": 24}
    del more


def test_a_meter_counts_what_is_alive_by_purpose() -> None:
    with Meter(vocabulary=7, block=1) as meter:
        kept = torch.empty(10)
        with allocating("cache"):
            other = torch.empty(5)
        del other
        logits = torch.empty(3, 7)
    assert meter.now == 40 + 84
    assert meter.peaks == {"": {"log-probability buffers": 84, "activations": 40}}
    del kept, logits


def test_attention_leaves_its_result_token_by_token_as_on_a_gpu() -> None:
    q, k, v = torch.randn(3, 2, 4, 16, 8)
    with Meter():
        output = scaled_dot_product_attention(q, k, v)
    assert output.transpose(1, 2).is_contiguous()
    torch.testing.assert_close(output, scaled_dot_product_attention(q, k, v))


def events(tree: Any) -> Iterator[Any]:
    for event in tree:
        yield event
        yield from events(event.children)


def allocated(work: Callable[[], Any]) -> int:
    """The most bytes that torch's allocator for the CPU had given out meanwhile."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    all_events = events(found.profiler.kineto_results.experimental_event_tree())  # type: ignore[union-attr]
    return max(int(e.typed[1].total_allocated) for e in all_events if e.typed[0].name == "Allocation")


def trainer(folder: Path, checkpointing: bool) -> PreferenceTrainer:
    options: dict[str, Any] = {"per_device_train_batch_size": 4, "max_steps": 2, "disable_tqdm": True}
    options |= {"gradient_checkpointing": checkpointing, "precompute_ref_log_probs": True}
    args = arguments(trl.DPOConfig, folder, 0, options)
    responses = {"chosen_ids": [7] * RESPONSE, "rejected_ids": [9] * RESPONSE}
    rows = [{"prompt_ids": [5 + i] * PROMPT, **responses} for i in range(4)]
    given = {"train_dataset": Dataset.from_list(rows), "processing_class": load_tokenizer(BASE)}
    own: dict[str, Any] = {"loss": component("preference_loss", "dpo"), "tokens_per_batch": None}
    adapter = lora_config(Adapter(r=16), "CAUSAL_LM")
    return PreferenceTrainer(load_causal(BASE), None, args, **given, peft_config=adapter, **own)


@pytest.mark.parametrize("checkpointing", [False, *slow(True)])
def test_a_forecast_is_within_5_percent_of_the_allocators_own_count(tmp_path: Path, checkpointing: bool) -> None:
    with pretending("cuda"):  # as there, without the fast paths of a CPU
        counted = allocated(trainer(tmp_path, checkpointing).train)
    build = Build(None, Adapter(r=16), torch.float32, trains=True, checkpointing=checkpointing)
    found = traced(configuration(BASE), Work("train", "learn", 4, 2, PROMPT, RESPONSE), Setting(build, None, "adamw"))
    at_start = found["weights fp32"] + found["adapters"]
    assert sum(found.values()) - at_start == pytest.approx(counted, rel=0.05)  # 2% above, 4% below


TRAINED = Work("train", "learn", 1, 2, 8, 16)
SAMPLED = Work("generation", "sample", 16, 1, 32, 24)


def of_all_layers(config: Any, work: Work, setting: Setting) -> int:
    """Bytes at the peak of a work of a model whose layers are all traced."""
    found = traces._traced(config, config.num_hidden_layers, work, setting)
    return max(sum(part.values()) for part in found.peaks.values())


MOVES = [(TRAINED, Adapter(), True, 4000), (TRAINED, None, True, 4000)]
MOVES += [(TRAINED, None, False, 4000), (SAMPLED, None, False, 1600)]


@pytest.mark.parametrize(("work", "adapter", "checkpointing", "vocabulary"), [*slow(*MOVES[:2]), *MOVES[2:]])
def test_layers_are_extrapolated_exactly(
    work: Work, adapter: Adapter | None, checkpointing: bool, vocabulary: int
) -> None:
    """Also where the part with the peak changes: in two layers the end of the backward pass, in ten its beginning."""
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 8, "num_key_value_heads": 4}
    config = Qwen3Config(**sizes, head_dim=16, num_hidden_layers=10, vocab_size=vocabulary, tie_word_embeddings=True)
    trains = work.does == "learn"
    build = Build(None, adapter, torch.bfloat16 if adapter else torch.float32, trains, checkpointing)
    setting = Setting(build, torch.bfloat16 if trains else None, "adamw" if trains else None)
    assert sum(traced(config, work, setting).values()) == pytest.approx(of_all_layers(config, work, setting), rel=0.002)


def test_a_first_trace_without_other_layers_that_learn_is_extrapolated() -> None:
    """Of three layers the last alone is attention, which the adapter is on; of six the backward pass reaches others."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    kinds = ["conv", "conv", "full_attention"] * 4
    config = Lfm2Config(**sizes, num_hidden_layers=12, layer_types=kinds, vocab_size=500)
    build = Build(None, Adapter(target_modules=["q_proj", "v_proj"]), torch.bfloat16, trains=True, checkpointing=False)
    setting = Setting(build, torch.bfloat16, "adamw")
    whole = of_all_layers(config, TRAINED, setting)
    assert sum(traced(config, TRAINED, setting).values()) == pytest.approx(whole, rel=0.02)


def test_a_step_of_all_tensors_at_once_has_roots_of_moments_beside() -> None:
    """Four bytes a weight: with eight of moments and four of weights and of gradients, the peak of a short row."""
    sizes = {"hidden_size": 32, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = Qwen3Config(**sizes, head_dim=16, num_hidden_layers=1, vocab_size=64)
    build = Build(None, None, torch.float32, trains=True, checkpointing=False)
    short = Work("train", "learn", 1, 2, 1, 1)
    at_once, fused = (
        sum(traced(config, short, Setting(build, None, name)).values()) for name in ("adamw_torch", "adamw_torch_fused")
    )
    model = Qwen3ForCausalLM(config)
    assert at_once == pytest.approx(20 * model.num_parameters(), rel=0.02)
    assert fused < 0.9 * at_once


@pytest.mark.parametrize(
    ("group", "groups", "mib"), [((384, 128, 128), 16, 314), ((1536, 512, 512), 4, 289), ((512, *[256] * 8), 4, 326)]
)
def test_attention_of_a_packed_layer_takes_what_a_gpu_took(group: tuple[int, ...], groups: int, mib: int) -> None:
    """Above its inputs and the gradient of its output, by a script on an H200: 16 heads of 128, 8 of keys."""
    tokens = groups * sum(group)
    with FakeTensorMode(allow_non_fake_inputs=True):
        shapes = [(1, tokens, heads, 128) for heads in (16, 8, 8, 16)]
        *inputs, grad = (torch.empty(shape, dtype=torch.bfloat16, requires_grad=True) for shape in shapes)
        with Meter() as meter:
            rows = row_sequences([group] * groups, torch.device("cpu"))
            found = attention(*(each.transpose(1, 2) for each in inputs), 0.1, (rows, Flash))
            torch.autograd.grad(found, inputs, grad.transpose(1, 2))
    (peak,) = meter.peaks.values()
    assert (sum(peak.values()) - tokens * 48 * 128 * 2) / 2**20 == pytest.approx(mib, abs=1)


def test_a_batch_is_as_large_as_its_limit_allows() -> None:
    def sizes(work: Work) -> list[int]:
        return [len(group.branches) for group in laid_out(work, Layout.ROWS)]

    assert sizes(Work("train", "learn", 8, 2, 10, 45, tokens=300)) == [2, 2, 2]  # rows of 100 tokens
    assert sizes(Work("train", "learn", 2, 2, 10, 45, tokens=300)) == [2, 2]
    assert sizes(Work("train", "learn", 2, 4, 10, 45, tokens=110)) == [2]  # a group is cut, and one is always there


def test_kinds_of_layers_repeat() -> None:
    assert period(configuration(Base("google/gemma-3-1b-it"))) == 6
    assert period(configuration(Base("HuggingFaceTB/SmolLM3-3B"))) == 4
    assert period(configuration(Base("Qwen/Qwen3-8B"))) == 1


def measured() -> list[dict[str, Any]]:
    points = json.loads(MEASURED.read_text())["points"] if MEASURED.exists() else []
    return [point for point in points if point["base"] in ("bf16", "nf4 without the upcast")]


@pytest.mark.parametrize(
    ("prompts", "limit", "slots"),
    [(9, None, 16), (600, 1100, 8), *slow((16, None, 16), (600, None, 512), (16, 100, 1))],
)
def test_a_static_cache_has_slots_of_equal_capacity(
    monkeypatch: pytest.MonkeyPatch, prompts: int, limit: int | None, slots: int
) -> None:
    """Prompts of 100 and responses of 24 tokens in 128: of 2 layers with 4 heads of 16, keys and values, 2 bytes."""
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 8, "num_key_value_heads": 4}
    config = Qwen3Config(**sizes, head_dim=16, num_hidden_layers=2, vocab_size=1600)
    setting = Setting(Build(None, Adapter(), torch.bfloat16, trains=False, checkpointing=False), None, None)
    both = traced(config, work := Work("generation", "sample", prompts, 1, 100, 24, limit), setting)
    monkeypatch.setattr(generation, "transformers_loop", lambda *_: None)
    monkeypatch.setattr(traces, "_KNOWN", {})
    found = traced(config, work, setting)
    assert sum(both.values()) >= sum(found.values())  # where the trial fails, transformers' loop generates
    assert found["KV cache"] == slots * 128 * 2 * 4 * 16 * 2 * 2
    assert found["CUDA graph"] > slots * 1600 * 8  # the sums of probabilities


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "mib"), [("0.6B", 24_241), ("1.7B", 28_524)])
def test_a_generation_is_within_6_percent_of_what_a_gpu_took(
    monkeypatch: pytest.MonkeyPatch, shape: str, mib: int
) -> None:
    """Above the weights, on an H200, by transformers' loop: 512 responses of 128 tokens to prompts of 256."""
    monkeypatch.setattr(generation, "slots_on_gpu", lambda _: False)
    monkeypatch.setattr(fakes, "with_half_paths", lambda model: model)
    setting = Setting(Build(None, Adapter(), torch.bfloat16, trains=False, checkpointing=False), None, None)
    config = configuration(Base(f"Qwen/Qwen3-{shape}"))
    found = traced(config, Work("generation", "sample", 512, 1, 256, 128), setting)
    above = sum(found.values()) * (1 + SHARE) + WORKSPACES - found["weights bf16"]
    assert above / 2**20 == pytest.approx(mib, rel=0.06)


@pytest.mark.slow
@pytest.mark.skipif(not MEASURED.exists(), reason="the points that a GPU measured are not here")
def test_a_forecast_is_within_6_percent_of_what_a_gpu_took(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (fakes, traces):  # it still laid out one row per group
        monkeypatch.setattr(module, "layout_on_gpu", lambda *_: Layout.ROWS)
    monkeypatch.setattr(fakes, "with_half_paths", lambda model: model)  # had norms and rotations of transformers
    monkeypatch.setattr(casts, "agree", lambda *_: False)  # made PEFT's casts, and had PEFT's layers
    monkeypatch.setattr(half_lora, "adapted", lambda *_: None)
    monkeypatch.setattr(four_bit, "adapted", lambda *_: None)
    for point in measured():
        tokens, reward = point["tokens"], point["stage"] == "reward"
        parts = {"pooling": component("pooling", "last_token"), "head": component("reward_head", "scalar")}
        work = Work("train", "learn", 1, 2, tokens // 4, tokens - tokens // 4, **(parts if reward else {}))
        build = Build("nf4" if "nf4" in point["base"] else None, Adapter(), torch.bfloat16, True, True)
        config = configuration(Base(f"Qwen/Qwen3-{point['shape']}"))
        found = traced(config, work, Setting(build, torch.bfloat16, "adamw"))
        of_the_head = 0 if reward else 2 * 256 * config.vocab_size * 4  # which it held when that was measured
        total = (sum(found.values()) + of_the_head) * (1 + SHARE) + WORKSPACES
        assert total / 2**20 == pytest.approx(point["allocated_mib"], rel=0.06)
