"""A tiny model as it is on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_kernels import as_on_a_gpu

from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.engine.half import trials
from rlhf_plugins.engine.weights import loading
from rlhf_plugins.engine.weights.loading import load_causal, with_adapter
from rlhf_plugins.testing import tiny_base

from ..test_backbone import shaken


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels that a GPU has, and no trial yet."""
    monkeypatch.setattr(trials, "_PASSED", {})
    with as_on_a_gpu():
        yield


@pytest.fixture
def half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Loads a tiny model in bfloat16 with an adapter in float32, as on a GPU."""
    monkeypatch.setattr(loading, "_dtype", lambda base: torch.bfloat16)

    def load(architecture: str = "llama") -> Any:
        torch.manual_seed(0)
        model = load_causal(tiny_base(tmp_path / architecture, architecture))
        return shaken(with_adapter(model, Adapter(r=4), "CAUSAL_LM")).train()

    return load
