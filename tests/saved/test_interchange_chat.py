"""An exported reward model gives the trained reward as others read it: its chat template, then its logits."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from templates import TEMPLATES, chat_base
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import rlhf_plugins.auto  # noqa: F401
from rlhf_plugins import export_reward_model, load_reward_model
from rlhf_plugins.contract.run import Base
from rlhf_plugins.engine.weights.loading import load_trunk
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.reward_model import RewardModel

ASKED, ANSWERED = [{"role": "user", "content": "who is"}], [{"role": "assistant", "content": "ant bee"}]


def saved(folder: Path, base: Base) -> Path:
    torch.manual_seed(3)
    model = RewardModel(load_trunk(base), component("pooling", "last_token"), component("reward_head", "scalar"))
    torch.nn.init.normal_(model.head.weight)
    described = {"base": {k: v for k, v in asdict(base).items() if k != "trust_remote_code"}}
    model.save(folder, {**described, "pooling": {"use": "last_token"}, "head": {"use": "scalar"}})
    return folder


@torch.no_grad()
def as_others_read(out: Path) -> float:
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer.apply_chat_template([*ASKED, *ANSWERED], return_dict=True, return_tensors="pt")["input_ids"]
    return float(AutoModelForSequenceClassification.from_pretrained(out).eval()(ids).logits)


@pytest.mark.parametrize("style", TEMPLATES)
def test_the_template_then_the_classifier_give_the_trained_reward(tmp_path: Path, style: str) -> None:
    folder = saved(tmp_path / "saved", chat_base(tmp_path / "base", style))
    model = load_reward_model(folder)
    expected = model.predict(model.encode([ASKED], [ANSWERED])).reward.item()
    for stock in (False, True):
        export_reward_model(folder, out := tmp_path / f"stock_{stock}", stock=stock)
        assert as_others_read(out) == pytest.approx(expected, abs=1e-4)


def test_a_list_of_ends_that_holds_the_padding_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", base := chat_base(tmp_path / "base", "llama3"))
    config = json.loads((Path(folder) / "config.json").read_text())
    (Path(folder) / "config.json").write_text(json.dumps({**config, "eos_token_id": [1, 0]}))
    with pytest.raises(RunError, match="finds the last token by its padding, which must not be EOS"):
        export_reward_model(folder, tmp_path / "out", stock=True)
    assert base.path
