"""Log-probabilities in chunks are those of the whole matrix of logits, gradients too; nothing of its size is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf_plugins.engine import head as heads
from rlhf_plugins.engine.head import Scaling, configured_scaling, token_logps

TOKENS, WIDTH, WORDS = 7, 5, 11
SCALINGS = [Scaling(), Scaling(0.5, None, 1.3), Scaling(2.0, 3.0, 0.7)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "LOGITS_PER_CHUNK", 3 * WORDS)
    monkeypatch.setattr(heads, "FEWEST_TOKENS", 1)


@pytest.mark.parametrize("name", ["final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"])
def test_a_cap_is_read_whatever_a_configuration_calls_it(name: str) -> None:
    assert configured_scaling(SimpleNamespace(**{name: 30.0})) == Scaling(1.0, 30.0)
    assert configured_scaling(SimpleNamespace(**{name: None})) == Scaling()


def given(bias: bool = False) -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, WORDS, bias=bias).double()
    return head, torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True), torch.randint(WORDS, (TOKENS,))


def plain(head: nn.Module, hidden: Tensor, targets: Tensor, scaling: Scaling) -> tuple[Tensor, Tensor]:
    """By the book."""
    numbers = head(hidden) * scaling.scale
    capped = numbers if scaling.cap is None else scaling.cap * torch.tanh(numbers / scaling.cap)
    log_probs = (capped / scaling.temperature).log_softmax(-1)
    return log_probs[torch.arange(TOKENS), targets], -(log_probs.exp() * log_probs).sum(-1)


def pulls(head: nn.Module, hidden: Tensor, found: tuple[Any, ...]) -> list[Tensor]:
    """Gradients of a sum in which every number counts differently."""
    weights = torch.linspace(0.5, 1.5, TOKENS, dtype=torch.float64)
    total = sum((weights * (i + 1) * part).sum() for i, part in enumerate(found) if part is not None)
    return list(torch.autograd.grad(total, [hidden, *head.parameters()]))  # type: ignore[arg-type]


@pytest.mark.parametrize("entropy", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_chunks_equal_the_whole(scaling: Scaling, bias: bool, entropy: bool) -> None:
    head, hidden, targets = given(bias)
    found, expected = token_logps(head, hidden, targets, scaling, entropy), plain(head, hidden, targets, scaling)
    expected = expected if entropy else expected[:1]
    for one, other in zip(found, expected, strict=False):
        torch.testing.assert_close(one, other)
    for one, other in zip(pulls(head, hidden, found), pulls(head, hidden, expected), strict=True):
        torch.testing.assert_close(one, other)


def test_a_head_of_another_kind_is_computed_at_once() -> None:
    head, hidden, targets = given()
    wrapped = nn.Sequential(head)  # as an adapter wraps it
    found = token_logps(wrapped, hidden, targets, SCALINGS[2], True)
    for one, other in zip(found[:2], plain(head, hidden, targets, SCALINGS[2]), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("wrap", [lambda head: head, nn.Sequential], ids=["chunks", "at once"])
def test_observed_numbers_are_the_distributions_and_have_no_gradient(wrap: Any) -> None:
    head, hidden, targets = given()
    scaling = SCALINGS[2]
    found = token_logps(wrap(head), hidden, targets, scaling, entropy=False, observe=True)
    logits = 3.0 * torch.tanh(2.0 * head(hidden) / 3.0) / 0.7
    _, entropies = plain(head, hidden, targets, scaling)
    for one, other in zip(found[1:], (entropies, logits.mean(1), logits.argmax(1) == targets), strict=True):
        torch.testing.assert_close(one, other.detach())
    assert [each.requires_grad for each in found] == [True, False, False, False]


def test_nothing_as_large_as_the_logits_is_kept() -> None:
    head, hidden, targets = given()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        token_logps(head, hidden, targets, Scaling(), True)
    assert kept
    assert max(kept) < TOKENS * WORDS


@pytest.mark.parametrize("used", [(0,), (1,), (0, 1)], ids=["logps", "entropies", "both"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_below_a_frozen_head_gradients_are_those_of_the_whole(scaling: Scaling, used: tuple[int, ...]) -> None:
    head, hidden, targets = given()
    head.requires_grad_(False)
    found, expected = token_logps(head, hidden, targets, scaling, True), plain(head, hidden, targets, scaling)
    one, other = (torch.autograd.grad(sum(each[i].cos().sum() for i in used), hidden) for each in (found, expected))
    torch.testing.assert_close(one, other)


def test_a_frozen_head_gets_no_gradient() -> None:
    head, hidden, targets = given()
    head.requires_grad_(False)
    token_logps(head, hidden, targets, Scaling(), False).logps.sum().backward()
    assert head.weight.grad is None
    assert hidden.grad is not None
