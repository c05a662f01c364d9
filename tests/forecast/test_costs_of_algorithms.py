"""What an algorithm costs is counted as `check` and `estimate` count it, and what is not known is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from rlhf_plugins import (
    Adapter,
    Base,
    Choice,
    Data,
    DataError,
    Features,
    Group,
    Resources,
    Situation,
    Stage,
    component,
    run_recipe,
)
from rlhf_plugins.contract.workload import Work
from rlhf_plugins.engine.weights.loading import load_row_encoder
from rlhf_plugins.forecast.cards import Card
from rlhf_plugins.forecast.costs import LOOKED_AT, Costs, Mean, costs, in_words, mean_tokens
from rlhf_plugins.forecast.fakes import Build
from rlhf_plugins.forecast.forecast import forecast
from rlhf_plugins.forecast.ranking import ranked
from rlhf_plugins.forecast.traces import Setting, flops
from rlhf_plugins.recipe.check import load_recipe
from rlhf_plugins.run.files.record import open_run
from rlhf_plugins.sandbox import base_path
from rlhf_plugins.testing import tiny_base

PAIR = Group("ab", ("c", "def"), ranks=(0, 1))
ROWS = Data((PAIR,) * 10, prompts={"train": (Group("ab"),) * 10})
SMALL = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "vocab_size": 32,
    "tie_word_embeddings": False,
}
TRAINER = {"per_device_train_batch_size": 4, "num_train_epochs": 2}


def letters(longest: int = 100) -> Any:
    """An encoder of a token a letter, which refuses longer rows."""

    def encode(prompt: str, response: str) -> tuple[list[int], list[int]]:
        if len(prompt + response) > longest:
            raise DataError("is too long")
        return [0] * len(prompt), [0] * len(response)

    return SimpleNamespace(encode_within_limit=encode)


def test_the_mean_length_is_of_a_prompt_with_one_response() -> None:
    assert mean_tokens(ROWS, letters()) == (2.0, 2.0)  # 2, and the mean of 1 and 3
    assert mean_tokens(ROWS, letters(4)) == (2.0, 1.0)  # a row that a training would leave out does not count
    assert mean_tokens(ROWS, letters(2)) is None
    many = Data((PAIR, Group("abcd", ("c",))) * LOOKED_AT)  # every second group is looked at
    assert mean_tokens(many, letters()) == (2.0, 2.0)


def test_steps_and_sequences_are_the_sum_over_the_stages() -> None:
    stages = [component("stage", name, trainer=TRAINER) for name in ("preference", "sft")]
    found = costs(stages, Base(base_path("sandbox")), ROWS, None, Mean(2.0, 2.0)).known
    assert found["steps"] == 12  # each 2 * ceil(10 / 4)
    assert found["sequences"] == 6 * 4 * 2 + 6 * 4  # a pair has two responses
    assert found["tokens"] == 4 * 72


def test_the_peak_is_what_estimate_forecasts() -> None:
    stages = [{"stage": "reward_model"}, {"stage": "online", "from": "base"}]
    recipe = load_recipe({"base": "Qwen/Qwen3-0.6B", "adapter": {}, "data": {"format": "sandbox"}, "stages": stages})
    card = Card("12 GB", 12 * 2**30)
    found = costs(recipe.stages, recipe.base, ROWS, card)
    assert found.known["peak_bytes"] == forecast(recipe, card).needed
    assert found.unknown == ()


def test_what_is_not_known_is_named() -> None:
    class Mine(Stage):
        name = "mine"

    base = Base(base_path("sandbox"))
    unknown = ("steps of mine: nothing says how long it is", "memory of mine: nobody knows what this stage computes")
    found = costs([Mine()], base, ROWS, None)
    assert (found.known, found.unknown) == ({}, unknown)
    trained = [component("stage", "sft", trainer=TRAINER)]
    found = costs(trained, replace(base, path="no/such"), ROWS, None)
    assert set(found.known) == {"steps", "sequences"}
    assert found.unknown[0].startswith("memory: base no/such: its configuration does not load")


@pytest.mark.parametrize("more", [{}, {"max_steps": 5}])
def test_too_few_prompts_for_a_rollout_are_refused_and_cost_no_steps(more: dict[str, int]) -> None:
    online = component("stage", "online", reward="gold", trainer={**TRAINER, "num_generations": 2, **more})
    base = Base(base_path("sandbox"), adapter=Adapter())
    few, enough = (replace(ROWS, prompts={"train": (Group("ab"),) * count}) for count in (1, 2))
    found = costs([online], base, few, None)
    assert found.refused == ("online: 1 prompt to train on, and a rollout takes 2",)
    assert (set(found.known), found.unknown) == ({"peak_bytes"}, ())
    assert costs([online], base, enough, None).refused == ()


def test_what_a_run_would_refuse_is_last_whatever_the_selector_says() -> None:
    seen: list[Situation] = []

    def judge(situation: Situation) -> list[Choice]:
        seen.append(situation)
        return [Choice(name, ("good",)) for name in reversed(situation.algorithms)]

    taken = {"ppo": Costs({}, refused=("ppo: no",)), "dpo": Costs({"steps": 1}), "ipo": Costs({"steps": 2})}
    found = ranked(judge, Situation(Features(1, 1), Resources(), tuple(taken)), taken)
    assert [(one.algorithm, one.possible, one.cost) for one in found] == [
        ("ipo", True, {"steps": 2}),
        ("dpo", True, {"steps": 1}),
        ("ppo", False, {}),
    ]
    assert found[-1].reasons == ("cannot: ppo: no",)
    assert seen[0].costs == {"dpo": {"steps": 1}, "ipo": {"steps": 2}}
    alone = ranked(judge, Situation(Features(1, 1), Resources(), ("ppo",)), taken)
    assert [one.possible for one in alone] == [False]


def test_words() -> None:
    counts = {"steps": 1200, "sequences": 9600, "tokens": 72000.0, "flops": 1.5e12}
    said = "about 1,200 steps, 9,600 sequences, 72,000 tokens, 1.50e12 FLOPs, a forecast peak of 3.0 GiB"
    assert in_words({**counts, "peak_bytes": 3 * 2**30}) == said
    assert in_words({"peak_bytes": 2**20, "spent_flops": 1e9}).endswith(" 1 MiB, 1.00e9 FLOPs spent on choosing")
    assert in_words({"steps": 3, "seconds": 75.0}) == "about 3 steps, 1 min 15 s by a trial on this machine"
    assert in_words({}) == "not known"


def test_flops_are_those_of_each_pass_times_how_often_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair of prompts of 2 and responses of 3 tokens costs 7 to learn and 2 to score, in this test."""
    seen: list[Any] = []
    each = {"learn": 7.0, "score": 2.0}
    monkeypatch.setattr("rlhf_plugins.forecast.traces.flops", lambda _, work, __: seen.append(work) or each[work.does])
    base = Base(base_path("sandbox"), adapter=Adapter())
    found = costs([component("stage", "preference", trainer=TRAINER)], base, ROWS, None, Mean(2.0, 3.0))
    # 6 steps of 4 pairs are learned from, and the reference reads the 10 rows once
    assert found.known["flops"] == 24 * 7 + 10 * 2
    assert {(work.prompts, work.responses, work.prompt_tokens, work.response_tokens) for work in seen} == {(1, 2, 2, 3)}
    again = {**TRAINER, "precompute_ref_log_probs": False}
    found = costs([component("stage", "preference", trainer=again)], base, ROWS, None, Mean(2.0, 3.0))
    assert found.known["flops"] == 24 * 7 + 24 * 2


def test_flops_of_a_forward_pass_by_hand() -> None:
    """Linear layers take 2 in out a token, attention 4 times its width a pair of tokens, the head only responses."""
    config = LlamaConfig(**SMALL)
    build = Build(None, None, torch.float32, False, False)
    found = flops(config, Work("reference", "score", 1, 1, 8, 8), Setting(build, None, None))
    layers = 5 * (4 * 8 * 8 + 3 * 8 * 12)  # queries, keys, values and outputs; gate, up and down
    assert found == 2 * 16 * layers + 5 * 4 * 8 * 16 * 16 + 2 * 8 * 8 * 32


@pytest.mark.slow
def test_forecast_flops_are_within_a_factor_of_2_of_those_that_a_run_counts(tmp_path: Path) -> None:
    trainer = {"per_device_train_batch_size": 16, "num_train_epochs": 1, "gradient_checkpointing": False}
    reward, ppo = {"stage": "reward_model", "trainer": trainer}, {"stage": "online", "from": "base", "trainer": trainer}
    data = {"format": "sandbox", "prompts": 64, "test_prompts": 4, "pairs": 2}
    stages = [{"stage": "preference", "trainer": trainer}, reward, ppo]
    recipe = {"base": "sandbox", "adapter": {"r": 16}, "data": data, "stages": stages}
    assembled = load_recipe(recipe)
    rows = assembled.data.load(assembled.base, 0)
    mean = mean_tokens(rows, load_row_encoder(assembled.base))
    record = open_run(run_recipe({**recipe, "output_dir": str(tmp_path / "run")}, say=str).folder)
    for stage, result in zip(assembled.stages, record.finished, strict=True):
        forecast_flops = costs([stage], assembled.base, rows, None, mean).known["flops"]
        assert 0.5 < forecast_flops / result.cost.flops < 2


@pytest.mark.slow
def test_an_online_training_of_epochs_takes_the_steps_that_were_counted(tmp_path: Path) -> None:
    trainer = {"per_device_train_batch_size": 4, "num_generations": 2, "num_train_epochs": 2, "num_iterations": 2}
    stage = {"stage": "online", "reward": "gold", "trainer": {**trainer, "max_completion_length": 4}}
    data = {"format": "sandbox", "writer": "sloppy", "prompts": 5, "test_prompts": 4}
    recipe = {"base": tiny_base(tmp_path / "base").path, "adapter": {"r": 2}, "data": data, "stages": [stage]}
    assembled = load_recipe(recipe)
    known = costs(assembled.stages, assembled.base, assembled.data.load(assembled.base, 0), None).known
    assert known["steps"] == 8  # 2 of 5 prompts a rollout, each for 2 steps, twice
    record = open_run(run_recipe({**recipe, "output_dir": str(tmp_path / "run")}, say=str).folder)
    (result,) = record.finished
    assert max(step for step, _ in result.curves["reward"].points) == 8
