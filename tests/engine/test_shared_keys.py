"""Heads that share keys attend by a fused kernel also where none of torch's shares them, and to the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rlhf_plugins import set_engine
from rlhf_plugins.engine import pretending, shared_keys
from rlhf_plugins.engine.shared_keys import Heads, attention, fused
from rlhf_plugins.engine.weights.loading import load_causal
from rlhf_plugins.testing import tiny_base

LAYER = SimpleNamespace(num_key_value_groups=3, is_causal=True)
SDPA = torch.nn.functional.scaled_dot_product_attention


class Called(list[tuple[int, int, bool]]):
    """Of each call of SDPA: heads of queries and of keys, and whether they are shared."""

    def __call__(self, query: Tensor, key: Tensor, *given: Any, **options: Any) -> Tensor:
        self.append((query.shape[1], key.shape[1], options.get("enable_gqa", False)))
        return SDPA(query, key, *given, **options)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    found = Called()
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", found)
    return found


@pytest.fixture(autouse=True)
def stock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", sdpa_attention_forward)


@pytest.fixture
def card() -> Iterator[None]:
    """A GPU without such a kernel: torch built without CUDA has none."""
    fused.cache_clear()
    with pretending("cuda"):
        yield
    fused.cache_clear()


def tensors(queries: int) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = ((2, 6, queries, 8), (2, 2, 5, 8), (2, 2, 5, 8))
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def by_hand(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    key, value = (each.repeat_interleave(3, 1) for each in (key, value))
    logits = query @ key.transpose(-1, -2) * 0.3
    if query.shape[2] > 1:
        logits = logits.masked_fill(~torch.ones(5, 5).tril().bool(), -torch.inf)
    return (logits.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(("queries", "heads"), [(5, (6, 6, False)), (1, (2, 2, False))])
def test_outputs_and_gradients_are_those_by_hand(called: Called, queries: int, heads: tuple[int, int, bool]) -> None:
    """Keys are repeated; one query of each head becomes queries of the head whose keys it reads."""
    given = tensors(queries)
    found, expected = attention(LAYER, *given, None, scaling=0.3, dropout=0.0)[0], by_hand(*given)
    torch.testing.assert_close(found, expected)
    towards = torch.randn_like(expected)
    torch.testing.assert_close(*(torch.autograd.grad(each, given, towards) for each in (found, expected)))
    assert called == [heads]


def elsewhere(mask: Tensor | None = None, module: Any = LAYER, **options: Any) -> Callable[[], Tensor]:
    return lambda: attention(module, *tensors(5), mask, scaling=0.3, dropout=0.0, **options)[0]


def test_on_a_cpu_under_a_mask_and_by_the_plain_engine_it_is_transformers(called: Called) -> None:
    mask = torch.zeros(2, 1, 5, 5, dtype=torch.float64).masked_fill(~torch.ones(5, 5).tril().bool(), -torch.inf)
    states = [elsewhere()()]
    with pretending("cuda"):
        states.append(elsewhere(mask)())
        with set_engine("plain"):
            states.append(elsewhere()())
    assert called == [(6, 2, True), (6, 6, False), (6, 2, True)]
    assert all(torch.allclose(each, states[0]) for each in states)


@pytest.mark.usefixtures("card")
def test_where_a_kernel_shares_keys_they_are_shared(called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_keys, "can_use_flash_attention", lambda given: given.query.dtype == torch.float64)
    elsewhere()()
    assert called == [(6, 2, True)]


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("fits", ["can_use_flash_attention", "can_use_cudnn_attention"])
def test_torch_is_asked_once_for_heads_of_a_kind(monkeypatch: pytest.MonkeyPatch, fits: str) -> None:
    asked = list[Any]()
    monkeypatch.setattr(shared_keys, fits, lambda given: not asked.append(given))
    half = Heads(torch.device("cpu"), torch.float16, 64, 32, drops=True, learns=True)
    assert all(fused(half) for _ in range(2))
    (one,) = asked
    assert (one.query.shape[1], one.key.shape[1], one.enable_gqa, one.is_causal) == (2, 1, True, True)
    assert (one.key.shape[-1], one.value.shape[-1], one.dropout) == (64, 32, 0.1)
    assert one.query.requires_grad
    assert one.attn_mask is None


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_model_on_such_a_card_never_shares_keys_and_has_the_same_logits_and_tokens(
    tmp_path: Path, called: Called, card: None, architecture: str
) -> None:
    model, ids = load_causal(tiny_base(tmp_path / "base", architecture)), torch.tensor([[5, 6, 7, 8]])
    assert model.config._attn_implementation == "sdpa"  # models read this name
    logits, tokens = model(ids).logits, model.generate(ids, max_new_tokens=5, do_sample=False)
    assert called
    assert all(queries == keys and not shared for queries, keys, shared in called)
    called.clear()
    with set_engine("plain"):
        torch.testing.assert_close(logits, model(ids).logits, rtol=1e-4, atol=1e-5)
        assert tokens.tolist() == model.generate(ids, max_new_tokens=5, do_sample=False).tolist()
    assert any(shared for *_, shared in called)


def test_a_model_that_moves_to_such_a_card_shares_no_keys_there(tmp_path: Path, called: Called) -> None:
    """Loaded on a CPU, where a kernel shares them, and by the plain engine; there it goes on by transformers' own."""
    with set_engine("plain"):
        model, ids = load_causal(tiny_base(tmp_path / "base")), torch.tensor([[5, 6, 7, 8]])
    here = model(ids).logits
    assert any(shared for *_, shared in called)
    called.clear()
    fused.cache_clear()
    with pretending("cuda"):
        there = model(ids).logits
    fused.cache_clear()
    assert called
    assert not any(shared for *_, shared in called)
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)
    called.clear()
    assert torch.equal(model(ids).logits, here)
    assert any(shared for *_, shared in called)


def masked(states: list[Tensor], mask: Tensor, layers: int = 3) -> tuple[Tensor, list[Tensor]]:
    """The sum of what layers compute under a mask of 5 keys, under autocast, and the masks that autograd keeps."""
    kept = list[Tensor]()
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each)
    with torch.autocast("cpu", torch.bfloat16), hooks:
        found = sum(attention(LAYER, *states, mask, scaling=0.3, dropout=0.0)[0].float() for _ in range(layers))
    assert isinstance(found, Tensor)
    return found, [each for each in kept if each.shape == mask.shape]


@pytest.mark.usefixtures("card")
def test_layers_share_an_additive_mask_with_aligned_rows_and_the_same_bits() -> None:
    mask = torch.ones(5, 5).tril().bool().repeat(2, 1, 1, 1)
    mask[1, :, :, 3:] = False  # padding, whose own rows see others
    states = [each.detach().float().requires_grad_() for each in tensors(5)]
    found, kept = masked(states, mask)
    with set_engine("plain"):
        expected, more = masked(states, mask)
    assert torch.equal(found, expected)
    grads = [torch.autograd.grad(each.sum(), states) for each in (found, expected)]
    assert all(torch.equal(*both) for both in zip(*grads, strict=True))
    storages = [len({each.untyped_storage().data_ptr() for each in masks}) for masks in (kept, more)]
    assert storages == [1, 3]
    assert {(each.dtype, each.stride(2)) for each in kept} == {(torch.bfloat16, 8)}
    assert mask[0, 0].tolist() == torch.ones(5, 5).tril().bool().tolist()
