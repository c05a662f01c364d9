"""A reward model is saved, opened, exported and refused: outputs stay, and a missing head is never a random one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.conftest import EOS, batch_of, ragged, sequences
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.data.batches.branches import Layout
from rlhf_plugins.engine.weights.loading import load_tokenizer, load_trunk, with_adapter
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.opening import open_reward
from rlhf_plugins.reward_models.reward_model import RewardModel, open_reward_model
from rlhf_plugins.testing import tiny_base

GROUPS = ragged(8)


def made(base: Base, pooling: str = "last_token") -> RewardModel:
    """A reward model whose every weight differs from its base's."""
    torch.manual_seed(3)
    trunk = with_adapter(load_trunk(base), base.adapter, "FEATURE_EXTRACTION")
    model = RewardModel(trunk, component("pooling", pooling), component("reward_head", "scalar")).eval()
    for weights in filter(lambda p: p.requires_grad, model.parameters()):
        weights.data += 0.05 * torch.randn_like(weights)
    return model


def described(base: Base, pooling: str = "last_token") -> dict[str, Any]:
    return {"base": asdict(base), "pooling": {"use": pooling}, "head": {"use": "scalar"}}


@torch.no_grad()
def rewards(model: RewardModel, layout: Layout = Layout.PACKED) -> Tensor:
    return model(batch_of(GROUPS, layout)).reward


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return tiny_base(tmp_path / "base", "qwen3")


@pytest.mark.parametrize("adapter", [None, Adapter(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize("pooling", ["last_token", "mean"])
def test_what_is_saved_scores_the_same_again(base: Base, tmp_path: Path, pooling: str, adapter: Any) -> None:
    base = replace(base, adapter=adapter)
    model = made(base, pooling)
    model.save(tmp_path / "saved", described(base, pooling))
    opened = open_reward_model(tmp_path / "saved", component)
    torch.testing.assert_close(rewards(opened), rewards(model), rtol=0, atol=0)
    assert not (tmp_path / "saved" / "adapter_model.safetensors").exists() or adapter


def test_a_saved_model_scores_with_a_gradient_where_it_is_asked_for(base: Base, tmp_path: Path) -> None:
    made(base).save(tmp_path / "saved", described(base))
    handle = open_reward(tmp_path / "saved", component)
    samples = Samples(["", ""], ["", ""], [[5], [6]], [[7, EOS], [8, EOS]])
    plain, learning = handle.predict(samples).reward, handle.predict(samples, grad=True).reward
    torch.testing.assert_close(learning.detach(), plain)
    assert not plain.requires_grad
    (slope,) = torch.autograd.grad(learning.sum(), handle.module.trunk.get_input_embeddings().weight)
    assert slope[[5, 6, 7, 8]].abs().sum(1).bool().all()


@pytest.mark.parametrize("pooling", ["last_token", "mean"])
def test_shared_rows_score_as_separate_ones(base: Base, pooling: str) -> None:
    model = made(base, pooling)
    torch.testing.assert_close(rewards(model), rewards(model, Layout.SEPARATE), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "mamba"])
def test_samples_are_scored_in_their_order(tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = made(tiny_base(tmp_path, architecture)), sequences(GROUPS)
    samples = Samples(["?"] * len(ids), ["!"] * len(ids), [p for p, _ in ids], [b for _, b in ids])
    alone = [
        float(model(batch_of([group], Layout.SEPARATE)).reward[i])
        for group in GROUPS
        for i in range(len(group.branches))
    ]
    assert model.score(samples, 0) == pytest.approx(alone, rel=1e-5, abs=1e-5)
    monkeypatch.setattr("rlhf_plugins.reward_models.reward_model.tokens_at_once", lambda: 20)
    assert model.score(samples, 0) == pytest.approx(alone, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("adapter", [None, Adapter(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "opt"])
def test_transformers_alone_opens_what_is_exported(tmp_path: Path, architecture: str, adapter: Any) -> None:
    base = replace(tiny_base(tmp_path / "base", architecture), adapter=adapter)
    model = made(base)
    expected = rewards(model)
    model.config.pad_token_id = load_tokenizer(base).pad_token_id
    model.export(tmp_path / "exported")
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported", dtype=torch.float32).eval()
    whole = [p + b for p, b in sequences(GROUPS)]
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in whole], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(ids)).long() for ids in whole], batch_first=True)
    found = classifier(input_ids=padded, attention_mask=mask).logits.squeeze(-1)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=1e-5)


def test_what_a_classifier_cannot_say_is_not_exported(base: Base, tmp_path: Path) -> None:
    model = made(base)
    model.config.pad_token_id = EOS
    with pytest.raises(RunError, match="must not be EOS"):
        model.export(tmp_path / "exported")
    model.head = torch.nn.Linear(32, 2)
    with pytest.raises(RunError, match="only a scalar head"):
        model.export(tmp_path / "exported")
    with pytest.raises(RunError, match="no sequence classifier of MambaModel"):
        made(tiny_base(tmp_path / "mamba", "mamba")).export(tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def without_head(folder: Path) -> None:
    (folder / "head.safetensors").unlink()


def with_a_stranger(folder: Path) -> None:
    save_file({**load_file(folder / "head.safetensors"), "pooling.query": torch.ones(1)}, folder / "head.safetensors")


def with_another_width(folder: Path) -> None:
    save_file({"head.weight": torch.ones(1, 5)}, folder / "head.safetensors")


def cut_short(folder: Path) -> None:
    (folder / "head.safetensors").write_bytes((folder / "head.safetensors").read_bytes()[:20])


def undescribed(folder: Path) -> None:
    (folder / "reward_model.json").write_text('{"base": {"path": 1, "stranger": 2}}')


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


def without_decoder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (without_head, "lacks head.safetensors"),
    (with_a_stranger, "head.safetensors does not fit the pooling and the head: it has no use for pooling.query"),
    (with_another_width, r"head: it has other sizes head.weight \(1, 5\) for \(1, 32\)"),
    (cut_short, "lacks head.safetensors|head.safetensors does not load"),
    (undescribed, "holds no reward model"),
    (without_decoder, "does not load"),
    (pickled, "its weights are pickled, and a pickle can run code; save them as safetensors"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_folder_is_refused(base: Base, tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    made(base).save(tmp_path / "saved", described(base))
    damage(tmp_path / "saved")
    with pytest.raises(RunError, match=message):
        open_reward_model(tmp_path / "saved", component)
