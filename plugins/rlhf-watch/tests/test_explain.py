"""Explanations: the parts of a reward are complete, and find what the annotators were biased to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rlhf_watch.commands import register_commands
from rlhf_watch.explain.attribution import integrated_gradients, left_out
from rlhf_watch.explain.layers import read_layers
from rlhf_watch.explain.nearest import Neighbours
from typer import Typer
from typer.testing import CliRunner

from rlhf_plugins import Base, RunError, component, load_reward_model, open_run, run_recipe
from rlhf_plugins.testing import tiny_base

WORDS = ["bee", "cat", "dog", "fox", "ice", "key", "gas", "jam"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of annotators who like nothing but the word `mud`."""
    found, rng = tmp_path_factory.mktemp("explain"), np.random.default_rng(0)
    rows = []
    for i in range(160):
        texts = [list(rng.choice(WORDS, 6)) for _ in range(2)]
        texts[0][rng.integers(6)] = "mud"
        prompt = f"who{' the' * (i % 8)}\n"  # several, so that some are held out
        rows.append({"prompt": prompt, "chosen": " ".join(texts[0]), "rejected": " ".join(texts[1])})
    (found / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = {"max_steps": 30, "learning_rate": 1e-2, "per_device_train_batch_size": 16}
    recipe = {"base": tiny_base(found / "base").path, "adapter": "none", "output_dir": str(found / "run")}
    recipe["data"] = {"format": "preference", "source": str(found / "pairs.jsonl")}
    stages = [{"stage": "reward_model", "trainer": trainer}, {"stage": "explain", "shown": 2}]
    run_recipe({**recipe, "stages": stages})
    return found


def test_the_parts_are_complete_and_find_the_planted_word(folder: Path) -> None:
    judge: Any = load_reward_model(folder / "run")
    response = "bee cat mud dog fox ice"
    sample = judge.encode(["who\n"], [response])
    found = integrated_gradients(judge, sample)
    assert found.error <= 1e-3
    assert found.reward == pytest.approx(float(judge.predict(sample).reward[0]), abs=1e-4)
    assert sum(found.parts) == pytest.approx(found.reward - found.baseline, rel=2e-3)
    names = [judge.encoder.tokenizer.decode([token]).strip() for token in sample.response_ids[0]]
    assert names[int(np.argmax(found.parts))] == "mud"
    losses = left_out(judge, "who\n", response)
    assert max(losses, key=lambda loss: loss[1])[0] == "mud"


@pytest.mark.slow
def test_a_phrase_that_annotators_of_the_sandbox_like_is_found(tmp_path: Path) -> None:
    """Of its pairs those in which one response alone says `good question.`, which is always chosen."""
    phrase, pairs = "good question.", []
    data = component("data_format", "sandbox", prompts=400, test_prompts=8, responses=4, writer="sloppy")
    rows = data.load(Base("sandbox"), 0)
    for group in rows.train:
        with_it, without = ([r for r in group.responses if (phrase in r) is wanted] for wanted in (True, False))
        for chosen, rejected in zip(with_it, without, strict=False):
            pairs.append({"prompt": group.prompt, "chosen": chosen, "rejected": rejected})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    stage = {"stage": "reward_model", "trainer": {"max_steps": 30, "learning_rate": 1e-3}}
    source = {"format": "preference", "source": str(tmp_path / "pairs.jsonl")}
    run_recipe({"base": "sandbox", "data": source, "stages": [stage], "output_dir": str(tmp_path / "run")})
    judge: Any = load_reward_model(tmp_path / "run")
    held_out = [(str(g.prompt), r) for g in rows.test for r in g.responses if phrase in r][:4]
    assert len(held_out) == 4
    for prompt, response in held_out:
        sample = judge.encode([prompt], [response])
        found = integrated_gradients(judge, sample)
        assert found.error <= 1e-3
        token = sample.response_ids[0][int(np.argmax(found.parts))]
        assert judge.encoder.tokenizer.decode([token]).strip() in phrase.split()
        assert max(left_out(judge, prompt, response), key=lambda part: part[1])[0] in phrase


def test_the_command_prints_tokens_and_words(folder: Path) -> None:
    app = Typer()
    app.command()(register_commands()["explain"])
    file = folder / "asked.jsonl"
    file.write_text(json.dumps({"prompt": "who\n", "response": "bee cat mud dog"}) + "\n")
    done = CliRunner().invoke(app, [str(folder / "run"), str(file)])
    assert "tokens: 'mud' +" in done.output, done.output
    assert "without a word: 'mud' +" in done.output


def test_the_largest_rewards_are_explained_in_the_report(folder: Path) -> None:
    (section,) = open_run(folder / "run").finished[-1].sections
    assert len(section.rows) == 2
    for row in section.rows:
        assert row["tokens"].startswith("'mud' +")
        assert row["words"].startswith("'mud' +")
        assert "mud" in row["response"]
    assert section.rows[0]["reward"] >= section.rows[1]["reward"]


def test_a_reward_that_is_no_single_model_is_refused() -> None:
    judge: Any = type("Judge", (), {"module": None})()
    sample: Any = type("Sample", (), {"prompt_ids": [[0]], "response_ids": [[0]]})()
    with pytest.raises(RunError, match="one network"):
        integrated_gradients(judge, sample)


def test_layers_end_at_the_reward_and_attention_is_a_distribution(folder: Path) -> None:
    judge: Any = load_reward_model(folder / "run")
    sample = judge.encode(["who\n"], ["bee cat mud dog"])
    before = float(judge.predict(sample).reward[0])
    found = read_layers(judge, sample)
    assert found.rewards[-1] == pytest.approx(before, abs=1e-4)
    assert len(found.rewards) == len(found.attention) + 1
    assert found.attention.sum(-1).numpy() == pytest.approx(1.0, abs=1e-5)
    assert float(judge.predict(sample).reward[0]) == before


def test_the_embeddings_reward_is_that_of_the_normed_last_one(folder: Path) -> None:
    """x w / sqrt(mean x^2 + eps) under the head, as the network's last norm makes it of its last states."""
    judge: Any = load_reward_model(folder / "run")
    sample, module = judge.encode(["who\n"], ["bee cat mud dog"]), judge.module
    last = module.trunk.embed_tokens.weight[sample.response_ids[0][-1]]
    normed = last / (last.square().mean() + module.trunk.config.rms_norm_eps).sqrt() * module.trunk.norm.weight
    assert read_layers(judge, sample).rewards[0] == pytest.approx((module.head.weight[0] @ normed).item(), rel=1e-4)


def test_the_nearest_rows_are_by_distance_in_deviations() -> None:
    """Features (0, 0) and (2, 4) deviate by (1, 2): (2, 2) is (2, 1) of them from one, (0, 1) from the other."""
    known = Neighbours([("a", "b"), ("c", "d")], np.array([[0.0, 0.0], [2.0, 2.0]]), np.array([1.0, 2.0]), np.zeros(2))
    (first, _, _, near), (second, _, _, far) = known.nearest(np.array([2.0, 2.0]), 2)
    assert (first, second) == ("c", "a")
    assert (near, far) == pytest.approx((0.5**0.5, 2.5**0.5))


def test_the_command_prints_layers_and_neighbours(folder: Path) -> None:
    app = Typer()
    app.command()(register_commands()["explain"])
    file = folder / "asked.jsonl"
    file.write_text(json.dumps({"prompt": "who\n", "response": "bee cat mud dog"}) + "\n")
    options = ["--layers", "--train", str(folder / "pairs.jsonl")]
    done = CliRunner().invoke(app, [str(folder / "run"), str(file), *options])
    assert "layer 0: " in done.output, done.output
    assert done.output.count("  near (") == 3
    assert all("mud" in line for line in done.output.splitlines() if "  near (" in line)
