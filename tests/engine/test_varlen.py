"""Attention over packed rows in two calls equals that of each sequence alone; torch's kernel takes what it is given."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from launches import Launches
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rlhf_plugins.data.batches.branches import Layout
from rlhf_plugins.engine import FastPath, attention, pretending, probing, varlen
from rlhf_plugins.engine.layers import attention_types, attention_windows
from rlhf_plugins.engine.log_probs import response_logps
from rlhf_plugins.engine.probing import layout_of
from rlhf_plugins.engine.varlen import Flash, row_sequences
from rlhf_plugins.engine.varlen import attention as at_once

from .conftest import batch_of, ragged
from .test_forward import adapted, worst
from .test_forward import agrees as agrees_in
from .varlen_reference import FlashOnCpu, Reference

Causal = Callable[..., Any]
Groups = Sequence[Sequence[int]]
BOTH = (Layout.PACKED, Layout.SEPARATE)
CPU = torch.device("cpu")
SHAPES: dict[str, Groups] = {
    "ragged groups": [(5, 3, 4), (2, 1, 6, 2), (7, 2)],
    "one response": [(4, 3)],
    "one response each": [(4, 3), (1, 1)],
    "one token each": [(1, 1, 1)],
    "prompts of one token": [(1, 3, 2, 4), (1, 2)],
    "responses of one token": [(3, 1, 1, 1), (2, 1, 1)],
    "a single response first": [(2, 5), (3, 1, 2)],
}


def drawn(groups: Groups, heads: tuple[int, int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Queries, keys and values (1, heads, N, 8)."""
    draw, tokens = torch.Generator().manual_seed(0), sum(map(sum, groups))
    shapes = [(1, count, tokens, 8) for count in (heads[0], heads[1], heads[1])]
    return [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def alone(inputs: list[Tensor], groups: Groups, scale: float, window: int | None = None) -> Tensor:
    """The outputs of the tokens of the row, (1, heads, N, 8), each sequence a row of its own."""
    output, start = torch.zeros_like(inputs[0]), 0
    for prompt, *branches in groups:
        stop = start + prompt
        for branch in branches:
            places = torch.tensor([*range(start, start + prompt), *range(stop, stop + branch)])
            own = [each[:, :, places] for each in inputs]
            seen = torch.ones(len(places), len(places), dtype=torch.bool).tril()
            seen = seen if window is None else seen.triu(1 - window)
            found = torch.nn.functional.scaled_dot_product_attention(*own, seen, scale=scale, enable_gqa=True)
            output = output.index_copy(2, places, found)
            stop += branch
        start = stop
    return output


def weighted(output: Tensor) -> Tensor:
    """A scalar in which every number counts differently."""
    return (output * torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype).view_as(output)).sum()


def agrees(groups: Groups, heads: tuple[int, int], window: int | None = None) -> None:
    inputs = drawn(groups, heads)
    found = at_once(*inputs, 0.3, (row_sequences(groups, CPU, window), Reference()))
    expected = alone(inputs, groups, 0.3, window)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    grads, right = (torch.autograd.grad(weighted(output), inputs) for output in (found, expected))
    torch.testing.assert_close(grads, right, rtol=0, atol=1e-10)


@pytest.mark.parametrize("heads", [(2, 2), (4, 2), (4, 1)], ids=str)
@pytest.mark.parametrize("groups", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("window", [None, 1, 3, 6, 99])
def test_outputs_and_gradients_are_those_of_each_sequence_alone(
    groups: Groups, heads: tuple[int, int], window: int | None
) -> None:
    agrees(groups, heads, window)


LENGTHS = st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=5), min_size=1, max_size=4)


@given(LENGTHS, st.none() | st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_they_are_for_groups_of_any_lengths(groups: list[list[int]], window: int | None) -> None:
    agrees(groups, (2, 1), window)


def test_the_sequences_of_a_row_by_hand() -> None:
    """[p p p | a a | b | c c] [p | a a a] [p p | a | b]: groups of 8, 4 and 4 tokens."""
    own, across, keys = row_sequences([(3, 2, 1, 2), (1, 3), (2, 1, 1)], CPU)
    assert keys is None
    assert own.queries.bounds.tolist() == own.keys.bounds.tolist() == [0, 5, 6, 8, 12, 15, 16]
    assert (own.queries.longest, own.causal) == (5, True)
    assert across is not None
    assert (across.branches.tolist(), across.prompts.tolist()) == ([5, 6, 7, 15], [0, 1, 2, 12, 13])
    assert (across.block.queries.bounds.tolist(), across.block.keys.bounds.tolist()) == ([0, 3, 4], [0, 3, 5])
    assert (across.block.queries.longest, across.block.keys.longest, across.block.causal) == (3, 3, False)
    assert {each.dtype for each in (own.queries.bounds, across.block.keys.bounds)} == {torch.int32}


def test_the_sequences_under_a_sliding_window_by_hand() -> None:
    """The same row, of which a token sees itself and two before: of a prompt, a branch has the last two tokens."""
    own, across, keys = row_sequences([(3, 2, 1, 2), (1, 3), (2, 1, 1)], CPU, 3)
    assert across is None
    assert keys is not None
    assert keys.tolist() == [0, 1, 2, 3, 4, 1, 2, 5, 1, 2, 6, 7, 8, 9, 10, 11, 12, 13, 14, 12, 13, 15]
    assert own.queries.bounds.tolist() == [0, 5, 6, 8, 12, 15, 16]
    assert own.keys.bounds.tolist() == [0, 5, 8, 12, 16, 19, 22]
    assert (own.keys.longest, own.causal, own.window) == (5, True, 3)
    single = row_sequences([(1, 3), (4, 2)], CPU, 3)
    assert (single.keys, single.own.keys) == (None, single.own.queries)


# ---- torch's kernel --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("groups", SHAPES.values(), ids=SHAPES)
def test_torchs_kernel_is_given_each_argument_in_its_place(groups: Groups, window: int | None) -> None:
    inputs = drawn(groups, (4, 2))
    with FlashOnCpu() as flash:
        found = at_once(*inputs, 0.3, (row_sequences(groups, CPU, window), Flash))
        grads = torch.autograd.grad(weighted(found), inputs)
    expected = alone(inputs, groups, 0.3, window)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(grads, torch.autograd.grad(weighted(expected), inputs), rtol=0, atol=1e-10)
    calls = 2 if window is None and any(len(group) > 2 for group in groups) else 1
    assert flash.calls == ["aten::_flash_attention_forward"] * calls + ["aten::_flash_attention_backward"] * calls


def test_torchs_kernel_returns_the_shapes_that_are_merged() -> None:
    """By its own description of its results, which needs no GPU; kernels of other versions pad log-sum-exps."""
    groups = SHAPES["ragged groups"]
    with FakeTensorMode() as fake:
        inputs = [fake.from_tensor(each) for each in drawn(groups, (4, 2), torch.bfloat16)]
        sequences = row_sequences(groups, CPU)
        rows = tuple(each[0].transpose(0, 1) for each in inputs)
        output, lse = Flash.forward(rows, sequences.own, 0.3)
        found = at_once(*inputs, 0.3, (sequences, Flash))
        grads = torch.autograd.grad(found.float().sum(), inputs)
    tokens = sum(map(sum, groups))
    assert (output.shape, lse.shape, lse.dtype) == ((tokens, 4, 8), (4, tokens), torch.float32)
    assert (found.shape, found.dtype) == (inputs[0].shape, torch.bfloat16)
    assert [(each.shape, each.dtype) for each in grads] == [(each.shape, torch.bfloat16) for each in inputs]


def test_a_layer_launches_16_times_forward_and_11_times_backward() -> None:
    """The kernel twice, 5 and 6 gathers, a merge (7, or 8 in half precision), 2 results and 3 sums put back."""
    inputs, groups = drawn(SHAPES["ragged groups"], (4, 2)), SHAPES["ragged groups"]
    with FlashOnCpu(), Launches() as forward:
        found = at_once(*inputs, 0.3, (row_sequences(groups, CPU), Flash))
    grad = torch.ones_like(found)
    with FlashOnCpu(), Launches() as backward:
        torch.autograd.grad(found, inputs, grad)
    assert forward.all == 2 + 5 + 7 + 2
    assert backward.all == 2 + 6 + 3


# ---- in a model ------------------------------------------------------------------------------------------------
@pytest.fixture
def on_gpu() -> Iterator[FlashOnCpu]:
    """Fast paths are those of a GPU, whose kernel the reference computes."""
    with pretending("cuda"), FlashOnCpu() as flash:
        yield flash


WINDOWS: dict[str, dict[str, Any]] = {
    "gemma3_text": {"sliding_window": 5, "num_hidden_layers": 6},
    "mistral": {"sliding_window": 5},
    "qwen2": {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 1},
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("architecture", WINDOWS)
def test_a_model_with_sliding_windows_on_a_gpu_is_always_packed(
    causal: Causal, on_gpu: FlashOnCpu, architecture: str, dtype: torch.dtype
) -> None:
    model = causal(architecture, **WINDOWS[architecture]).to(dtype)
    assert layout_of(model) is Layout.PACKED
    windows = [attention_windows(model.config)[kind] for kind in attention_types(model.config)]
    own = [getattr(layer.self_attn, "sliding_window", 5) for layer in model.model.layers]
    assert 5 in own  # after the trial as before
    on_gpu.calls.clear()
    packed, separate = (response_logps(model, batch_of(ragged(), each)) for each in BOTH)
    assert worst(packed.logps, separate.logps) < (0.03 if dtype == torch.bfloat16 else 3e-3)
    calls = sum(2 if window is None else 1 for window in windows)
    assert len(on_gpu.calls) == calls
    packed.logps.sum().backward()
    assert len(on_gpu.calls) == 2 * calls


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_model_on_a_gpu_gets_packed_rows(
    causal: Causal, on_gpu: FlashOnCpu, architecture: str, dtype: torch.dtype
) -> None:
    model = causal(architecture).to(dtype)
    assert layout_of(model) is Layout.EITHER
    on_gpu.calls.clear()
    packed, separate = (response_logps(model, batch_of(ragged(), each)) for each in BOTH)
    assert worst(packed.logps, separate.logps) < (0.03 if dtype == torch.bfloat16 else 3e-3)
    assert len(on_gpu.calls) == 2 * model.config.num_hidden_layers
    packed.logps.sum().backward()
    assert len(on_gpu.calls) == 4 * model.config.num_hidden_layers
    assert all(weights.grad.isfinite().all() for weights in model.parameters() if weights.grad is not None)


@pytest.fixture
def in_float32(on_gpu: FlashOnCpu, monkeypatch: pytest.MonkeyPatch) -> FlashOnCpu:
    """The kernel of a GPU takes float32 as well."""
    path = FastPath("attention by spans in two calls", ("cuda",), (torch.float32,))
    for module in (attention, probing):
        monkeypatch.setattr(module, "VARLEN", path)
    monkeypatch.setattr(probing, "_kernel_fault", lambda _: None)  # whose bound is for half precision
    return on_gpu


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "mixtral", *WINDOWS])
def test_log_probabilities_and_gradients_are_those_of_separate_rows(
    causal: Causal, in_float32: FlashOnCpu, architecture: str, checkpointing: bool
) -> None:
    model = adapted(causal(architecture, **WINDOWS.get(architecture, {})))
    assert layout_of(model) is (Layout.PACKED if architecture in WINDOWS else Layout.EITHER)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    in_float32.calls.clear()
    agrees_in(model, Layout.PACKED, ragged(1), 2e-5)
    assert in_float32.calls


def refused(model: Any, caplog: pytest.LogCaptureFixture) -> str:
    """Why it does not get packed rows."""
    with caplog.at_level(logging.WARNING, "rlhf_plugins"):
        assert layout_of(model) is Layout.ROWS
    (line,) = [each.message for each in caplog.records if "one row per group" in each.message]
    return line.partition("because ")[2]


def test_a_gpu_without_the_kernel_gets_rows_under_a_mask(
    causal: Causal, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: Any) -> Any:
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nException raised from ...")

    monkeypatch.setattr(Flash, "forward", lacking)
    with pretending("cuda"):
        reason = refused(causal().half(), caplog)
    assert reason == (
        "it does not take packed groups (RuntimeError: FlashAttention only supports Ampere GPUs or newer.)"
    )


def test_a_version_of_torch_that_pads_log_sum_exps_gets_rows_under_a_mask(
    causal: Causal, on_gpu: FlashOnCpu, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_gpu, "padded", True)
    found = refused(causal(num_attention_heads=4).half(), caplog)
    assert found.startswith("it does not take packed groups (RuntimeError: torch 2.")
    assert found.endswith("returns log-sum-exps of shape (3, 4, 13))")  # of the trial's sequences, prompt first


@pytest.mark.parametrize("name", ["forward", "backward"])
def test_a_kernel_that_errs_is_not_used(
    causal: Causal, on_gpu: FlashOnCpu, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    right = getattr(Flash, name)

    def wrong(*given: Any) -> Any:
        first, *others = right(*given)
        return 1.05 * first, *others

    monkeypatch.setattr(Flash, name, wrong)
    found = refused(causal(num_attention_heads=4, head_dim=8).to(torch.bfloat16), caplog)
    assert re.fullmatch(r"the kernel for packed rows errs by \d\.\d\d% with 4 heads of 8", found)


def test_a_kernel_that_ignores_sliding_windows_is_not_used(
    causal: Causal, on_gpu: FlashOnCpu, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "_window", lambda _: {})
    model = causal("gemma3_text", num_hidden_layers=6).to(torch.bfloat16)
    with caplog.at_level(logging.WARNING, "rlhf_plugins"):
        assert layout_of(model) is Layout.SEPARATE
    found = caplog.messages[-1].partition("because ")[2]
    assert re.fullmatch(
        r"the kernel for packed rows errs by \d+\.\d\d% with 4 heads of 8 under a sliding window", found
    )
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_takes_no_mask_is_always_packed(
    causal: Causal, on_gpu: FlashOnCpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = probing._difference

    def compared(trunk: Any, layout: Layout) -> Any:
        return (0.5, None) if layout is Layout.ROWS else right(trunk, layout)

    monkeypatch.setattr(probing, "_difference", compared)
    model = causal().to(torch.bfloat16)
    assert layout_of(model) is Layout.PACKED
    agrees_in(model, Layout.PACKED, ragged(), 0.05)


def test_models_that_are_computed_together_get_what_all_of_them_take(causal: Causal, on_gpu: FlashOnCpu) -> None:
    half, single, windows = causal().half(), causal(), causal("gemma2").half()
    assert layout_of(half, causal().half(), None) is Layout.EITHER
    assert layout_of(half, single) is Layout.ROWS
    assert layout_of(half, single, windows) is layout_of(half, windows) is Layout.SEPARATE


def test_what_the_kernel_lacks_is_found_out(causal: Causal, on_gpu: FlashOnCpu) -> None:
    assert layout_of(causal("gemma2").to(torch.bfloat16)) is Layout.SEPARATE  # capped logits
    assert layout_of(causal()) is Layout.ROWS  # float32
    assert on_gpu.calls == []


def test_on_a_gpu_dropout_and_float32_are_computed_under_a_mask(causal: Causal, on_gpu: FlashOnCpu) -> None:
    model, groups = causal(attention_dropout=0.5).to(torch.bfloat16), ragged()
    assert layout_of(model) is Layout.EITHER
    on_gpu.calls.clear()
    model.train()
    assert not torch.equal(*(response_logps(model, batch_of(groups)).logps for _ in range(2)))
    packed, separate = (response_logps(model.float().eval(), batch_of(groups, each)).logps for each in BOTH)
    assert worst(packed, separate) < 1e-5
    assert on_gpu.calls == []
