"""Sampling draws from the model's own distribution, whatever its base says about generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.engine.sampling import Decoding, sample, without_generation_defaults
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer, with_adapter
from rlhf_plugins.testing import tiny_base

LEAKS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.8},
    {"no_repeat_ngram_size": 1},
    {"min_p": 0.9, "do_sample": True},
    {"min_new_tokens": 12},
    {"suppress_tokens": [5, 6, 7, 8, 9, 10, 11, 12]},
]


def responses(base: Base, adapter: bool, temperature: float, **says: Any) -> list[list[int]]:
    torch.manual_seed(0)
    model = with_adapter(load_causal(base), Adapter(r=2) if adapter else None, "CAUSAL_LM")
    own = (model.get_base_model() if adapter else model).generation_config
    for name, value in says.items():
        setattr(own, name, value)
    tokenizer = load_tokenizer(base)
    found = sample(model, tokenizer, ["a b", "c"], per_prompt=4, decoding=Decoding(12, temperature)).response_ids
    assert model.generation_config is own
    return [list(ids) for ids in found]


@pytest.mark.parametrize("says", LEAKS, ids=lambda says: next(iter(says)))
@pytest.mark.parametrize(("adapter", "temperature"), [(False, 0.0), (True, 1.0)])
def test_what_a_base_says_of_generation_changes_no_sample(
    tmp_path: Path, adapter: bool, temperature: float, says: dict[str, Any]
) -> None:
    base = Base(tiny_base(tmp_path).path)
    assert responses(base, adapter, temperature, **says) == responses(base, adapter, temperature)


def test_the_tokens_that_end_a_response_stay_and_all_comes_back(tmp_path: Path) -> None:
    model = load_causal(Base(tiny_base(tmp_path).path))
    own = model.generation_config
    own.eos_token_id, own.top_p = [1, 7], 0.5
    with without_generation_defaults(model):
        assert (model.generation_config.eos_token_id, model.generation_config.top_p) == ([1, 7], None)
    with pytest.raises(ZeroDivisionError), without_generation_defaults(model):
        raise ZeroDivisionError
    assert model.generation_config is own


def test_a_model_in_training_is_so_again_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base(tmp_path)
    model, tokenizer = load_causal(base).train(), load_tokenizer(base)
    sample(model, tokenizer, ["a b"])
    assert model.training
    monkeypatch.setattr(model, "generate", lambda **_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        sample(model, tokenizer, ["a b"])
    assert model.training
