"""A folded adapter computes what it computes beside its base, and leaves the base bit for bit as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.engine.cpu.folding import folded
from rlhf_plugins.engine.sampling import Decoding, sample
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer
from rlhf_plugins.testing import tiny_base

from ..test_backbone import WIDE, logits, policy_on


def policy(folder: Path, quantization: str | None = None, **adapter: Any) -> Any:
    base = Base(tiny_base(folder, **WIDE).path, quantization, Adapter(r=4))
    return policy_on(base, **adapter)[0]


def bits(model: Any) -> list[bytes]:
    return [weights.detach().float().numpy().tobytes() for weights in model.parameters()]


def test_the_logits_are_those_of_the_adapter_beside_its_base(tmp_path: Path) -> None:
    model = policy(tmp_path)
    beside = logits(model)
    with folded(model):
        assert all(layer.merged for layer in model.modules() if hasattr(layer, "lora_A"))
        torch.testing.assert_close(logits(model), beside, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(model), beside)


def test_a_layer_that_computes_in_its_own_way_is_not_folded() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(2 * x)

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.embeddings = Doubled(3, 3), nn.Embedding(3, 3)

        def forward(self, x: torch.Tensor) -> Any:
            return self.layer(x)

        def get_input_embeddings(self) -> nn.Module:
            return self.embeddings

    model = get_peft_model(Holder(), LoraConfig(r=2, target_modules=["layer"], init_lora_weights=False))
    beside = model(torch.ones(1, 3))
    with folded(model):
        assert torch.equal(model(torch.ones(1, 3)), beside)


def test_whatever_happens_every_bit_is_as_it_was(tmp_path: Path) -> None:
    model = policy(tmp_path)
    before = bits(model)
    with pytest.raises(ZeroDivisionError), folded(model):
        raise ZeroDivisionError
    assert bits(model) == before
    with folded(model):
        assert bits(model) != before


def test_the_reference_in_the_middle_leaves_every_bit_too(tmp_path: Path) -> None:
    model = policy(tmp_path)
    before = bits(model)
    with folded(model), model.disable_adapter():  # PEFT takes a folded adapter out again by itself
        logits(model)
    assert bits(model) == before


def test_quantized_and_tied_layers_stay_as_they_are(tmp_path: Path) -> None:
    quantized = policy(tmp_path / "a", "nf4")
    tied = policy_on(Base(tiny_base(tmp_path / "b", tie_word_embeddings=True).path, None), target_modules=["lm_head"])[
        0
    ]
    for model in (quantized, tied):
        with folded(model):
            assert not any(layer.merged for layer in model.modules() if hasattr(layer, "lora_A"))


@pytest.mark.parametrize("own", [{"lora_bias": True}, {"alora_invocation_tokens": [3]}], ids=["lora_bias", "alora"])
def test_an_adapter_that_changes_more_than_a_weight_stays_beside_it(tmp_path: Path, own: dict[str, Any]) -> None:
    """A folded bias would stay in the base's, and its reference would move with every rollout."""
    given = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False, **own)
    model = get_peft_model(load_causal(tiny_base(tmp_path, "qwen2")), given).eval()
    before, beside = bits(model), logits(model)
    with folded(model):
        assert torch.equal(logits(model), beside)
    assert bits(model) == before


def test_a_plain_model_has_nothing_to_fold(tmp_path: Path) -> None:
    model = load_causal(tiny_base(tmp_path))
    before = logits(model)
    with folded(model):
        assert torch.equal(logits(model), before)


def test_samples_are_those_of_the_adapter_beside_its_base(tmp_path: Path) -> None:
    model = policy(tmp_path)
    tokenizer = load_tokenizer(Base(str(tmp_path)))
    found = sample(model, tokenizer, ["how is", "the"], 2, Decoding(8, temperature=0.0))
    with torch.no_grad():
        asked = tokenizer("how is", return_tensors="pt")
        plain = model.generate(**asked, max_new_tokens=8, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert found.response_ids[0] == plain.tolist()[: len(found.response_ids[0])]
