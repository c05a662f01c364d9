"""Products by oneDNN in blocks are torch's own, whatever the rows and strides; what gains nothing stays with torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.engine.cpu import product
from rlhf_plugins.engine.cpu.folding import folded
from rlhf_plugins.engine.cpu.linear_layer import OneDNNLinear, use_onednn
from rlhf_plugins.engine.cpu.product import outer_sum, times_transposed
from rlhf_plugins.engine.head import Scaling, token_logps
from rlhf_plugins.engine.weights.loading import with_adapter, with_fast_paths

WIDE = 256  # 256 x 256 numbers are just enough


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """As on a processor where MKL is slow; the shapes that went to oneDNN."""
    asked, times = list[tuple[int, ...]](), product._onednn

    def noted(x: Tensor, other: Tensor) -> Tensor:
        asked.append(tuple(x.shape))
        return times(x, other)

    monkeypatch.setattr(product, "MKL_IS_SLOW", True)
    monkeypatch.setattr(product, "_onednn", noted)
    torch.manual_seed(0)
    return asked


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("rows", [256, 300, 1024, 2 * 1024 + 512 + 256 + 7])
@pytest.mark.parametrize(("inputs", "outputs"), [(256, 256), (128, 512), (512, 128)])
def test_products_are_torchs(rows: int, inputs: int, outputs: int, slow: list[Any]) -> None:
    x, weight, gradient = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
    onto = torch.randn(rows, inputs)
    close(times_transposed(x, weight), x @ weight.t())
    close(times_transposed(gradient, weight.t(), onto.clone()), onto + gradient @ weight)
    close(outer_sum(gradient, x), gradient.t() @ x)
    sums = torch.randn(outputs, inputs)
    close(outer_sum(gradient, x, sums.clone()), sums + gradient.t() @ x)
    assert slow


def test_rows_come_in_blocks_of_few_sizes(slow: list[Any]) -> None:
    """Each size is a kernel that is kept; 11 rows are too few for one."""
    times_transposed(torch.randn(1024 + 1024 + 512 + 256 + 11, WIDE), torch.randn(WIDE, WIDE))
    assert slow == [(1024, WIDE), (1024, WIDE), (512, WIDE), (256, WIDE)]


def test_a_number_of_the_last_block_does_not_depend_on_what_memory_held() -> None:
    x, weight = torch.ones(257, WIDE), torch.ones(WIDE, WIDE)
    for _ in range(3):
        torch.full((257, WIDE), torch.nan)  # which the product may be written over
        assert times_transposed(x, weight).unique().tolist() == [WIDE]


@pytest.mark.parametrize(
    "strided", ["turned", *(pytest.param(one, marks=pytest.mark.slow) for one in ("columns", "expanded"))]
)
def test_strides_do_not_matter(strided: str) -> None:
    x, weight = torch.randn(300, 2 * WIDE), torch.randn(WIDE, WIDE)
    x = {"columns": x[:, ::2], "expanded": x[:1, :WIDE].expand(300, WIDE), "turned": x.view(WIDE, -1).t()[:300]}[
        strided
    ]
    close(times_transposed(x, weight), x @ weight.t())
    close(outer_sum(x, x), x.t() @ x)


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (torch.randn(255, WIDE), torch.randn(WIDE, WIDE)),
        (torch.randn(300, WIDE), torch.randn(WIDE - 1, WIDE)),
        (torch.randn(300, WIDE).double(), torch.randn(WIDE, WIDE).double()),
    ],
    ids=["few rows", "a small matrix", "float64"],
)
def test_what_gains_nothing_is_torchs(x: Tensor, weight: Tensor, slow: list[Any]) -> None:
    torch.testing.assert_close(times_transposed(x, weight), x @ weight.t(), rtol=0, atol=0)
    assert not slow


def test_torchs_own_switch_turns_it_off(slow: list[Any]) -> None:
    x, weight = torch.randn(300, WIDE), torch.randn(WIDE, WIDE)
    with torch.backends.mkldnn.flags(enabled=False):
        times_transposed(x, weight)
    assert not slow
    times_transposed(x, weight)
    assert slow


@pytest.mark.parametrize("bias", [True, False])
def test_a_plain_layers_output_and_gradients_are_torchs(bias: bool, slow: list[Any]) -> None:
    layer, x = OneDNNLinear(WIDE, 2 * WIDE, bias=bias), torch.randn(3, 100, WIDE, requires_grad=True)
    wanted = [x, *layer.parameters()]
    outputs = layer(x), linear(x, layer.weight, layer.bias)
    pull = torch.randn_like(outputs[0])
    assert slow
    close(outputs[0], outputs[1])
    for found, expected in zip(*(torch.autograd.grad(output, wanted, pull) for output in outputs), strict=True):
        close(found, expected)


def test_a_frozen_layer_gives_no_gradient_and_one_under_autocast_is_torchs(slow: list[Any]) -> None:
    layer, x = OneDNNLinear(WIDE, WIDE).requires_grad_(False), torch.randn(300, WIDE, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None
    slow.clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert not slow


def model(tied: bool = False) -> Any:
    sizes = {"hidden_size": WIDE, "intermediate_size": 2 * WIDE, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=300, tie_word_embeddings=tied, **sizes)).eval()


def test_a_models_layers_change_and_its_head_does_not() -> None:
    made = model()
    expected = made(torch.arange(300).view(1, -1) % 64).logits
    changed = use_onednn(made)
    assert sorted(type(m).__name__ for m in changed.modules() if isinstance(m, nn.Linear)) == ["Linear"] + 14 * [
        "OneDNNLinear"
    ]
    assert type(changed.lm_head) is nn.Linear
    close(changed(torch.arange(300).view(1, -1) % 64).logits, expected)


def test_where_mkl_is_fast_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "MKL_IS_SLOW", False)
    assert not any(type(module) is OneDNNLinear for module in use_onednn(model()).modules())


def test_a_frozen_layer_keeps_no_inputs(slow: list[Any]) -> None:
    layer, x = OneDNNLinear(WIDE, WIDE).requires_grad_(False), torch.randn(300, WIDE, requires_grad=True)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    assert slow
    assert kept == [layer.weight.data_ptr()]


@pytest.mark.parametrize("adapter", [None, Adapter(r=8)], ids=["full", "lora"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_and_its_gradients_are_what_they_are_without_onednn(
    adapter: Adapter | None, tied: bool, slow: list[Any]
) -> None:
    made = with_adapter(with_fast_paths(model(tied)), adapter, "CAUSAL_LM")
    for name, weights in made.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weights, std=0.02)
    ids, results = torch.randint(0, 300, (2, 300)), []
    for on in (True, False):
        made.zero_grad()
        with torch.backends.mkldnn.flags(enabled=on):
            hidden = made(input_ids=ids, output_hidden_states=True).hidden_states[-1].flatten(0, 1)
            found = token_logps(made.get_output_embeddings(), hidden, ids.flatten(), Scaling(), entropy=True)
            assert found.entropies is not None
            (found.logps.mean() + 0.3 * found.entropies.mean()).backward()
        results.append([found.logps.detach(), *(p.grad for p in made.parameters() if p.grad is not None)])
    assert slow
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))
    with torch.no_grad(), folded(made):
        folds = made(input_ids=ids).logits
    close(folds, made(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("maker", "width", "slow_there"),
    [("AuthenticAMD", "AVX512", True), ("AuthenticAMD", "AVX2", False), ("GenuineIntel", "AVX512", False)],
)
def test_mkl_is_slow_on_amds_processors_with_avx_512(
    maker: str, width: str, slow_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"processor\t: 0\nvendor_id\t: {maker}\n")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: width)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert product._mkl_is_slow() is slow_there
