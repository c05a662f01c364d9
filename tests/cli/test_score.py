"""`rlhf export` and `rlhf score` from the shell: one line of success, one line of refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import rlhf_plugins.auto  # noqa: F401  # what the exported model is
from rlhf_plugins.engine import NORMS
from rlhf_plugins.engine.weights.loading import load_trunk
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.testing import tiny_base

Rlhf = Callable[..., Result]
FILES = ("auto.jsonl", "plain.jsonl")


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A saved reward model, and a file of two rows."""
    base = tiny_base(tmp_path / "base")
    torch.manual_seed(0)
    made = RewardModel(load_trunk(base), component("pooling", "last_token"), component("reward_head", "scalar"))
    words = {"base": {"path": base.path}, "pooling": {"use": "last_token"}, "head": {"use": "scalar"}}
    made.save(tmp_path / "model", words)
    rows = [{"prompt": "how ", "response": word} for word in ("ant", "gas")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "model"


@pytest.mark.parametrize("words", [[], ["--stock"]], ids=["ours", "stock"])
def test_an_exported_model_scores_as_the_command_does(rlhf: Rlhf, model: str, words: list[str]) -> None:
    assert rlhf("export", model, "out", *words).stdout == "out\n"
    assert rlhf("score", model, "rows.jsonl", "--out", "s.jsonl").stdout == "s.jsonl: 2 rows\n"
    rewards = [json.loads(line)["reward"] for line in Path("s.jsonl").read_text().splitlines()]
    opened = AutoModelForSequenceClassification.from_pretrained("out").eval()
    inputs = AutoTokenizer.from_pretrained("out")(["how ant<eos>", "how gas<eos>"], return_tensors="pt")
    assert opened(**inputs).logits[:, 0].tolist() == pytest.approx(rewards, abs=1e-5)


def test_scoring_again_says_what_stood_there(rlhf: Rlhf, model: str) -> None:
    rlhf("score", model, "rows.jsonl")
    again = rlhf("score", model, "rows.jsonl")
    assert (again.exit_code, again.stdout) == (0, "rows.jsonl.scored.jsonl: 2 rows, 2 of them scored before\n")


def test_without_fast_paths_the_scores_are_the_same(rlhf: Rlhf, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rlhf("score", model, "rows.jsonl", "--out", "auto.jsonl")
    monkeypatch.setattr("rlhf_plugins.engine.cpu.norm._rms_norm", lambda *_: 1 // 0)
    assert rlhf("--engine", "plain", "score", model, "rows.jsonl", "--out", "plain.jsonl").exit_code == 0
    scores = [[json.loads(line)["reward"] for line in Path(f).read_text().split("\n")[:2]] for f in FILES]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5, abs=1e-6)
    refused = rlhf("--engine", "plian", "score", model, "rows.jsonl")
    assert (refused.exit_code, refused.stderr.count("did you mean plain?")) == (2, 1)
    assert NORMS.active(torch.empty(1))


def test_a_format_takes_options(rlhf: Rlhf, model: str) -> None:
    row = {"prompt": "how ", "response_a": "ant", "response_b": "gas", "better": "b"}
    Path("rows.jsonl").write_text(json.dumps(row) + "\n")
    words = ("--format", "comparisons", "--out", "s.jsonl")
    assert rlhf("score", model, "rows.jsonl", "columns.label=better", *words).stdout == "s.jsonl: 1 rows\n"
    assert len(json.loads(Path("s.jsonl").read_text())["rewards"]) == 2


REFUSED = [
    (("score", "nowhere", "rows.jsonl"), "nowhere: holds no reward model"),
    (("score", "model", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
    (("score", "model", "empty.jsonl"), "empty.jsonl: holds no rows"),
    (("score", "model", "rows.jsonl", "gap=1"), "gap=1: is an option of a format, so --format must name one"),
    (("score", "model", "rows.jsonl", "--format", "rating"), "did you mean ratings?"),
    (
        ("score", "model", "rows.jsonl", "--out", "empty.jsonl"),
        "empty.jsonl: exists, and no empty.jsonl.note.json records",
    ),
    (("score", "model", "rows.jsonl", "--out", "model"), "model: exists, and no model.note.json records"),
    (("export", "nowhere", "out"), "nowhere: holds no policy or reward model"),
    (("export", "model", "model"), "model: exists and is not an empty folder"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_a_refusal_is_one_line(rlhf: Rlhf, model: str, words: tuple[str, ...], message: str) -> None:
    Path("empty.jsonl").touch()
    result = rlhf(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
