"""What is taken off a model while all its weights are gathered under ZeRO-3; trainings under it are in tests/run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rlhf_plugins.engine.weights.partitions import _without_hooks


def test_hooks_of_deepspeed_are_off_for_the_block_and_afterwards_where_they_were() -> None:
    called: list[str] = []

    def hook(name: str, package: str) -> Any:
        def noted(*_: Any) -> None:
            called.append(name)

        noted.__module__ = package
        return noted

    model = nn.Sequential(nn.Linear(1, 1))
    for name, package in (("first", "ours"), ("gathers", "deepspeed.runtime"), ("last", "ours")):
        model[0].register_forward_pre_hook(hook(name, package))
    with _without_hooks(model):
        model(torch.ones(1, 1))
    model(torch.ones(1, 1))
    assert called == ["first", "last", "first", "gathers", "last"]
