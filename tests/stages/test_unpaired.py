"""Responses with a label alone train a policy, by `kto`, and a reward model, by the cross-entropy of labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_plugins import load_reward_model, open_run, run_recipe
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.data.batches.tokenized import NO_OTHER, tokenized_labels
from rlhf_plugins.engine.weights.loading import load_row_encoder
from rlhf_plugins.errors import DataError
from rlhf_plugins.testing import tiny_base

TRAINER = {"per_device_train_batch_size": 8, "disable_tqdm": True, "report_to": "none", "logging_steps": 1}
ASKED = ["who ", "why ", "how ", "what ", "is ", "the "]


def test_a_row_has_its_label_and_another_prompts_response(tmp_path: Path) -> None:
    encoder = load_row_encoder(tiny_base(tmp_path))
    labelled = [Group("who ", ("ant",), label=True), Group("why ", ("ant",), label=False)]
    rows = tokenized_labels([*labelled, Group("how ", ("cat", "dog"), (0, 1))], encoder).dataset
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    words = [tuple(encoder.tokenizer.decode(row[name]) for name in names) for row in rows]
    assert words == [
        ("who", "ant <eos>", "cat <eos>"),
        ("why", "ant <eos>", "cat <eos>"),
        ("how", "cat <eos>", "ant <eos>"),
        ("how", "dog <eos>", "ant <eos>"),
    ]
    assert list(rows["probability"]) == [1.0, 0.0, 1.0, 0.0]


def test_rows_that_say_nothing_are_refused(tmp_path: Path) -> None:
    encoder = load_row_encoder(tiny_base(tmp_path))
    with pytest.raises(DataError, match="no response has a label, and none is preferred"):
        tokenized_labels([Group("who ", ("ant",))], encoder)
    with pytest.raises(DataError, match=f"no row is left to learn from .2 x {NO_OTHER}"):
        tokenized_labels([Group(prompt, ("ant",), label=True) for prompt in ASKED[:2]], encoder)


@pytest.mark.slow
def test_labels_train_a_policy_and_a_reward_model(tmp_path: Path) -> None:
    rows = [{"prompt": p, "completion": word, "label": word == "ant"} for p in ASKED for word in ("ant", "bee")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    trainer = {**TRAINER, "max_steps": 12, "learning_rate": 1e-2}
    losses = {"preference": "kto", "reward_model": "label_cross_entropy"}
    stages = [{"stage": stage, "loss": loss, "trainer": trainer} for stage, loss in losses.items()]
    data = {"format": "supervised", "source": str(tmp_path / "rows.jsonl")}
    out = tmp_path / "run"
    run_recipe({"base": tiny_base(tmp_path / "base").path, "data": data, "stages": stages, "output_dir": str(out)})
    curves = open_run(out).curves("preference")
    assert curves["rewards/chosen"].points[-1][1] > curves["rewards/rejected"].points[-1][1] + 0.1
    assert "kl" in curves
    assert "rewards/accuracies" not in curves
    judge = load_reward_model(out / "02-reward_model/model")
    good, bad = judge.predict(judge.encode(["who ", "who "], ["ant", "bee"])).reward.tolist()
    assert good > bad
