"""Adapters that are cast together have the bits of those cast alone, and are never older than their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from launches import Launches

from rlhf_plugins.engine import casts, set_engine
from rlhf_plugins.engine.half import casting, trials
from rlhf_plugins.engine.layers import decoder_layers

from .test_model import gradients

Half = Callable[..., Any]


def alone(model: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[list[torch.Tensor], int]:
    with monkeypatch.context() as patch:
        patch.setattr(casting, "_pairs", lambda *_: [])
        return counted(model)


def counted(model: Any) -> tuple[list[torch.Tensor], int]:
    with Launches() as found:
        computed = gradients(model)
    return computed, found.casts


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(*both) for both in zip(one, other, strict=True))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_bits_are_those_of_weights_that_are_cast_alone(
    half: Half, monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    model = half()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    gradients(model)
    (found, fewer), (expected, more) = counted(model), alone(model, monkeypatch)
    assert same(found, expected)
    layers = 2 * 7
    assert more - fewer >= 2 * layers * (1 + checkpointing)


def test_a_change_that_torch_does_not_see_is_seen(half: Half, monkeypatch: pytest.MonkeyPatch) -> None:
    model = half()
    gradients(model)
    before = gradients(model)
    for weights in (weights for weights in model.parameters() if weights.requires_grad):
        version = weights._version
        weights.data.numpy()[:] *= 1.5
        assert weights._version == version
    found = gradients(model)
    assert not same(found, before)
    assert same(found, alone(model, monkeypatch)[0])


def test_nothing_is_kept_after_a_call_even_if_it_fails(half: Half) -> None:
    model = half()
    layer: Any = decoder_layers(model.get_base_model().model)[0]  # type: ignore[index]
    tuned = vars(layer)[casting.TUNED]
    assert len(tuned) == 7

    def interrupt(*_: Any) -> None:
        assert all(casts.IN_HALF in vars(each) for each in tuned)
        raise KeyboardInterrupt

    layer.mlp.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        gradients(model)
    assert not any(casts.IN_HALF in vars(each) for each in tuned)


def test_where_they_are_not_tried_or_switched_off_nothing_is_made(half: Half, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = half(), torch.ones(1, 2, 4, dtype=torch.bfloat16)
    tuned = vars(decoder_layers(model.get_base_model().model)[0])[casting.TUNED]  # type: ignore[index]
    assert not casting._pairs(tuned, x)  # without autocast
    with torch.autocast("cpu", torch.bfloat16):
        assert len(casting._pairs(tuned, x)) == 7
        with set_engine("plain"), monkeypatch.context() as patch:
            patch.setattr(casting, "_made", lambda *_: 1 // 0)
            gradients(model)
        tuned[0].enable_adapters(False)
        assert len(casting._pairs(tuned, x)) == 6
        monkeypatch.setattr(casting, "_cast", lambda weights, half: [each.half() for each in weights])
        monkeypatch.setattr(trials, "_PASSED", {})
        assert not casting._pairs(tuned, x)
