"""Fast paths are active only where they were tested, and `engine: plain` switches off every one of them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest
import torch
from handed import saved_policy
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from torch import nn
from transformers import AutoModelForCausalLM

from rlhf_plugins import engine
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.data.batches.branches import Layout
from rlhf_plugins.engine import Engine, FastPath, attention, casts, head, set_engine
from rlhf_plugins.engine.cpu import decoding, feed_forward, folding, linear_layer, norm, product, rotation
from rlhf_plugins.engine.cpu.folding import folded
from rlhf_plugins.engine.half import lora as half_lora
from rlhf_plugins.engine.log_probs import logit_scaling, response_logps
from rlhf_plugins.engine.probing import layout_of
from rlhf_plugins.engine.sampling import Decoding, sample
from rlhf_plugins.engine.static import loop
from rlhf_plugins.engine.weights.loading import (
    load_causal,
    load_tokenizer,
    load_trunk,
    with_adapter,
)
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.schema import Recipe
from rlhf_plugins.testing import tiny_base

from .conftest import batch_of, ragged
from .test_backbone import IDS, shaken

PATHS = {name: path for name, path in vars(engine).items() if isinstance(path, FastPath) and "auto" in path.engines}
HALVES = {name for name in PATHS if name.startswith("HALF_")}
COMPARED_THERE = {"SHARED_ROWS", "TRIMMED_LAYER", "CHUNKED_HEAD", "CASTS", *HALVES}
ON_A_GPU = {"STATIC_CACHE", "CUDA_GRAPH", "VARLEN", "SHARED_KEYS", "ONE_MASK"}  # alone
ADAPTER = Adapter(r=4)


def placed(device: str, dtype: torch.dtype = torch.float32) -> Any:
    """A stand-in for a tensor on a device that is not here."""
    return SimpleNamespace(device=SimpleNamespace(type=device), dtype=dtype)


def at_home(name: str) -> Any:
    """What a path is active with."""
    return placed("cuda", torch.bfloat16) if name in ON_A_GPU else torch.empty(2)


@pytest.mark.parametrize("name", PATHS)
def test_a_path_is_active_on_the_cpu_in_float32_but_for_those_of_a_gpu(name: str) -> None:
    assert PATHS[name].active(at_home(name))
    assert PATHS[name].active(torch.empty(2)) == (name not in ON_A_GPU)


def test_attention_in_two_calls_is_active_on_gpus_in_half_precision() -> None:
    halves, devices = (torch.bfloat16, torch.float16), ("cpu", "mps", "xpu", "meta")
    assert all(engine.VARLEN.active(placed("cuda", dtype)) for dtype in halves)
    assert not any(engine.VARLEN.active(placed("cuda", dtype)) for dtype in (torch.float32, torch.float64))
    assert not any(engine.VARLEN.active(placed(device, dtype)) for device in devices for dtype in halves)


@pytest.mark.parametrize("device", ["cuda", "mps", "xpu", "meta"])
@pytest.mark.parametrize("name", PATHS)
def test_on_another_device_only_those_that_are_compared_there_are_active(name: str, device: str) -> None:
    dtype = torch.bfloat16 if name == "VARLEN" else torch.float32
    tensor = placed(device, dtype) if device != "meta" else torch.empty(2, device="meta")
    assert PATHS[name].active(tensor) == (name in COMPARED_THERE or (device == "cuda" and name in ON_A_GPU))


def test_an_untested_precision_of_any_tensor_or_autocast_switches_a_path_off() -> None:
    single, half = torch.empty(2), torch.empty(2, dtype=torch.float16)
    assert not engine.NORMS.active(half)
    assert not engine.NORMS.active(single, half)
    with torch.autocast("cpu", torch.bfloat16):
        assert engine.NORMS.active(single)
        assert not engine.LORA.active(single)


def test_no_other_module_of_the_engine_tests_a_device_or_a_precision() -> None:
    """A comparison such as `x.dtype == torch.float32` or `x.device.type == "cpu"` belongs into the table."""
    for file in (Path(engine.__file__).parent / "cpu").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            words = ast.unparse(node) if isinstance(node, ast.Compare) else ""
            assert ".dtype" not in words, f"{file}:{words}"
            assert "device" not in words, f"{file}:{words}"


@pytest.mark.parametrize("name", PATHS)
def test_the_plain_engine_switches_it_off(name: str) -> None:
    tensor = at_home(name)
    with set_engine("plain"):
        assert not PATHS[name].active(tensor)
        with set_engine("auto"):
            assert PATHS[name].active(tensor)
        assert not PATHS[name].active(tensor)
    assert PATHS[name].active(tensor)


def test_it_is_a_function_too_and_comes_back_after_an_error() -> None:
    set_engine("plain")
    assert not engine.NORMS.active(torch.empty(2))
    set_engine("auto")
    with pytest.raises(ZeroDivisionError), set_engine("plain"):
        raise ZeroDivisionError
    assert engine.NORMS.active(torch.empty(2))


def test_an_unknown_engine_is_named_and_changes_nothing() -> None:
    with pytest.raises(RunError, match=r"unknown engine 'plian' \(did you mean plain\? known: auto, compiled, plain\)"):
        set_engine("plian")
    assert engine.NORMS.active(torch.empty(2))


def test_a_recipe_knows_the_same_engines() -> None:
    assert get_type_hints(Recipe)["engine"] == Engine


# ---- what is left of us in a model --------------------------------------------------------------------------
def foreign(model: Any) -> set[type]:
    """The classes of its modules that neither torch nor transformers nor PEFT defined."""
    return {c for module in model.modules() for c in type(module).__mro__ if c.__module__.startswith("rlhf_plugins")}


def classes(model: Any) -> list[type]:
    return [type(module) for module in model.modules()]


@pytest.fixture
def slow_mkl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "MKL_IS_SLOW", True)


@pytest.mark.usefixtures("slow_mkl")
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_plain_loading_leaves_every_class_alone(tmp_path: Path, architecture: str) -> None:
    base = tiny_base(tmp_path / "base", architecture)
    stock = AutoModelForCausalLM.from_pretrained(base.path)
    with set_engine("plain"):
        causal, trunk = load_causal(base), load_trunk(base)
        assert classes(causal) == classes(stock)
        assert classes(trunk) == classes(stock.base_model)
        adapted = with_adapter(causal, ADAPTER, "CAUSAL_LM")
        adapted.save_pretrained(tmp_path / "policy")
        opened = saved_policy(Base(base.path), tmp_path / "policy")
    assert not foreign(adapted) | foreign(opened)
    assert stock.config._attn_implementation == trunk.config._attn_implementation


@pytest.mark.slow
def test_a_model_that_was_loaded_plain_compiles(tmp_path: Path) -> None:
    with set_engine("plain"):
        model = load_causal(tiny_base(tmp_path)).eval()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(IDS, use_cache=False).logits, model(IDS).logits)


@pytest.mark.usefixtures("slow_mkl")
def test_otherwise_every_class_that_can_be_replaced_is(tmp_path: Path) -> None:
    model = with_adapter(load_causal(tiny_base(tmp_path)), ADAPTER, "CAUSAL_LM")
    assert {kind.__name__ for kind in foreign(model)} == {"FusedRMSNorm", "FusedGatedBlock", "OneDNNLinear", "Linear"}
    attention_layer = type(model.get_base_model().model.layers[0].self_attn)
    assert attention_layer.__mro__[1].__module__ == "transformers.models.llama.modeling_llama"


# ---- what computes ------------------------------------------------------------------------------------------
KERNELS: list[tuple[Any, str]] = [
    (norm, "_rms_norm"),
    (norm._RMSNorm, "apply"),
    (rotation, "_rotated"),
    (rotation._Rotation, "apply"),
    (feed_forward, "_inner"),
    (feed_forward._GatedBlock, "apply"),
    (linear_layer._Linear, "apply"),
    (product, "_onednn"),
    (attention._SpanAttention, "apply"),
    (attention, "packed_mask"),
    (head._ChunkedLogps, "apply"),
    (decoding, "draw_tokens"),
    (decoding, "_preallocate"),
    (decoding, "decode"),
    (loop.StaticLoop, "generate"),
]


def adapted(folder: Path) -> Any:
    torch.manual_seed(0)
    return shaken(with_adapter(load_causal(tiny_base(folder)), ADAPTER, "CAUSAL_LM")).eval()


def step(model: Any) -> list[torch.Tensor]:
    """Log-probabilities, entropies and gradients."""
    model.zero_grad()
    found = response_logps(model, batch_of(ragged(), layout_of(model)), temperature=0.7, entropy=True)
    assert found.entropies is not None
    (found.logps.cos().sum() + found.entropies.sum()).backward()
    return [found.logps.detach(), found.entropies.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def worst(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest difference, relative to the largest number of its tensor."""
    pairs = zip(found, expected, strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def greedy(model: Any, folder: Path) -> list[list[int]]:
    prompts, tokenizer = ["how is the", "what"], load_tokenizer(Base(str(folder)))
    return [list(ids) for ids in sample(model, tokenizer, prompts, 2, Decoding(8, temperature=0.0)).response_ids]


def test_a_model_that_was_loaded_with_fast_paths_uses_none_under_the_plain_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(tmp_path)
    expected, tokens = step(model), greedy(model, tmp_path)
    assert layout_of(model) is Layout.PACKED
    for owner, name in KERNELS:
        monkeypatch.setattr(owner, name, lambda *_, **__: 1 // 0)
    monkeypatch.setattr(folding.Linear, "merge", lambda *_, **__: 1 // 0)
    with set_engine("plain"):
        assert layout_of(model) is Layout.SEPARATE
        assert worst(step(model), expected) < 1e-5
        assert greedy(model, tmp_path) == tokens
    with pytest.raises(ZeroDivisionError):
        step(model)


def test_a_model_that_was_loaded_plain_computes_the_same(tmp_path: Path) -> None:
    model = adapted(tmp_path)
    with set_engine("plain"):
        plain = adapted(tmp_path)
        found, tokens = step(plain), greedy(plain, tmp_path)
    assert worst(found, step(model)) < 1e-5
    assert tokens == greedy(model, tmp_path)


def test_the_plain_engine_asks_the_head_for_every_logit_and_no_layer_for_a_part(
    causal: Callable[..., Any],
) -> None:
    with set_engine("plain"):
        model, batch, shapes = causal(), batch_of(ragged(), Layout.SEPARATE), []
        for module in (model.lm_head, model.model.layers[-1].mlp):
            module.register_forward_hook(lambda _, inputs, __: shapes.append(tuple(inputs[0].shape[:2])))
        response_logps(model, batch)
    assert shapes[-2:] == 2 * [tuple(batch.input_ids.shape)]


def test_on_another_device_layers_compute_as_their_own_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(tmp_path).to("meta")
    for owner, name in KERNELS:
        monkeypatch.setattr(owner, name, lambda *_, **__: 1 // 0)
    assert model(IDS.to("meta")).logits.device.type == "meta"
    with folded(model):
        assert not any(layer.merged for layer in model.modules() if hasattr(layer, "lora_A"))


def test_layers_that_are_loaded_on_another_device_compute_as_pefts_do() -> None:
    stock = nn.Sequential(nn.Linear(4, 4, device="meta"))
    with set_engine("plain"):
        layer = half_lora.fuse_lora(get_peft_model(stock, LoraConfig(r=2, target_modules=["0"]))).base_model.model[0]
    assert type(layer) is lora.Linear
    assert type(half_lora.fuse_lora(nn.Sequential(layer))[0]) is half_lora.Linear
    assert half_lora.adapted(layer, torch.empty(2, 4, device="meta")) is None
    assert casts.Linear.forward is lora.Linear.forward


def test_a_model_is_tried_again_in_another_precision(causal: Callable[..., Any]) -> None:
    model = causal()
    assert layout_of(model) is Layout.PACKED
    assert layout_of(model.half()) is Layout.ROWS  # attention by spans was not tested in float16
    assert layout_of(model.float()) is Layout.PACKED


def test_a_head_whose_chunks_disagree_is_computed_at_once(
    causal: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch, right = causal(), batch_of(ragged(), Layout.SEPARATE), head._logit_grads
    monkeypatch.setattr(head, "_logit_grads", lambda *given: 2 * right(*given))
    assert logit_scaling(model) is None
    found = response_logps(model, batch).logps
    with set_engine("plain"):
        torch.testing.assert_close(found, response_logps(model, batch).logps)
