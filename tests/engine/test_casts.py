"""A LoRA layer casts nothing that autocast undoes: the same bits in fewer launches, in every stage that trains."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from launches import Launches
from peft import LoraConfig, get_peft_model

from rlhf_plugins.data.batches.branches import Layout
from rlhf_plugins.engine import casts, set_engine
from rlhf_plugins.engine.half import lora
from rlhf_plugins.engine.log_probs import response_logps
from rlhf_plugins.engine.weights import loading
from rlhf_plugins.engine.weights.loading import fuse_adapters, load_causal
from rlhf_plugins.testing import tiny_base

from .conftest import batch_of, ragged
from .test_backbone import shaken


@pytest.fixture(autouse=True)
def unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a trial of fused layers fails: those leave out the same casts, and more."""
    monkeypatch.setattr(lora, "adapted", lambda *_: None)


def half(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """A tiny model in bfloat16 with an adapter in float32, as on a GPU."""
    monkeypatch.setattr(loading, "_dtype", lambda base: torch.bfloat16)
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", **options)
    return shaken(fuse_adapters(get_peft_model(load_causal(tiny_base(tmp_path)), config))).train()


def step(model: Any) -> tuple[list[torch.Tensor], Launches]:
    model.zero_grad()
    torch.manual_seed(0)  # of dropout
    with Launches() as counted:
        with torch.autocast("cpu", torch.bfloat16):
            logps = response_logps(model, batch_of(ragged(), Layout.ROWS)).logps
        logps.sum().backward()
    return [logps.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)], counted


def of_peft(model: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[list[torch.Tensor], Launches]:
    with monkeypatch.context() as patch:
        patch.setattr(casts, "agree", lambda *_: False)
        return step(model)


def test_log_probabilities_and_gradients_have_the_same_bits(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = half(tmp_path, monkeypatch)
    step(model)  # tries layouts
    (found, ours), (expected, theirs) = step(model), of_peft(model, monkeypatch)
    assert len(found) == 29
    assert all(torch.equal(*both) for both in zip(found, expected, strict=True))
    assert ours.casts < 0.8 * theirs.casts
    assert theirs.all - ours.all == theirs.casts - ours.casts


@pytest.mark.parametrize("adapter", [{"lora_dropout": 0.5}, {"use_dora": True}], ids=str)
def test_other_adapters_are_cast_as_peft_does(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, adapter: dict[str, Any]
) -> None:
    model = half(tmp_path, monkeypatch, **adapter)
    step(model)
    assert step(model)[1].casts == of_peft(model, monkeypatch)[1].casts


def test_without_autocast_or_with_the_plain_engine_nothing_changes(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, layer = half(tmp_path, monkeypatch), Counter[str]()
    monkeypatch.setattr(casts, "agree", lambda *_: layer.update(["asked"]) or True)
    response_logps(model, batch_of(ragged(), Layout.ROWS))
    with set_engine("plain"), torch.autocast("cpu", torch.bfloat16):
        response_logps(model, batch_of(ragged(), Layout.SEPARATE))
    assert not layer


def test_the_trial_says_what_is_the_same() -> None:
    assert casts.agree("cpu", torch.bfloat16, torch.float32)
    assert not casts.agree("cpu", torch.float16, torch.bfloat16)  # which rounds what float16 holds
