"""An adapter that is not one of the model is refused with the names, by every way of opening it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.engine.backbone import shared
from rlhf_plugins.engine.weights.loading import load_causal, load_trunk, with_adapter, with_saved_adapter
from rlhf_plugins.errors import RunError
from rlhf_plugins.testing import tiny_base

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


def renamed(weights: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("q_proj", "k_proj"): value for key, value in weights.items()}


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "a key is missing": (lambda w: {k: v for k, v in w.items() if k != f"{LAYER}.lora_B.weight"}, "lacks {}.lora_B"),
    "a foreign key": (lambda w: {**w, "stranger": torch.ones(1)}, "has no use for stranger"),
    "a foreign layer": (lambda w: {**w, f"{LAYER}x.lora_A.weight": torch.ones(1)}, "has no use for {}x.lora_A"),
    "other modules": (renamed, "lacks {}.lora_A.* and 1 more; has no use for .*k_proj"),
    "a row that would be repeated": (lambda w: {**w, f"{LAYER}.lora_A.weight": torch.ones(1, 32)}, "{}.lora_A"),
}


def by_peft(base: Base, folder: Path) -> Any:
    return with_saved_adapter(load_causal(base), folder)


def beside_others(base: Base, folder: Path) -> Any:
    return shared(base).load(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return replace(tiny_base(tmp_path_factory.mktemp("base")), adapter=Adapter(r=4, target_modules=["q_proj"]))


@pytest.mark.parametrize("load", [by_peft, beside_others])
@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_an_adapter_with_other_weights_is_refused(
    base: Base, change: Callable[..., Any], message: str, load: Callable[..., Any], tmp_path: Path
) -> None:
    with_adapter(load_causal(base), base.adapter, "CAUSAL_LM").save_pretrained(tmp_path)
    load(base, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(RunError, match="its adapter does not load: .*" + message.format(LAYER)):
        load(base, tmp_path)


def test_an_adapter_of_a_whole_model_is_none_of_its_trunk(base: Base, tmp_path: Path) -> None:
    with_adapter(load_causal(base), base.adapter).save_pretrained(tmp_path)
    with pytest.raises(RunError, match=r"lacks base_model.model.layers.0.*; has no use for base_model.model.model"):
        with_saved_adapter(load_trunk(base), tmp_path)


@pytest.mark.parametrize("load", [by_peft, beside_others])
def test_a_pickled_adapter_is_not_opened(base: Base, load: Callable[..., Any], tmp_path: Path) -> None:
    with_adapter(load_causal(base), base.adapter, "CAUSAL_LM").save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(RunError, match=r"adapter_model.bin is a pickle, which can run code; save it as"):
        load(base, tmp_path)
