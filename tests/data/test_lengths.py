"""One rule for rows that are too long: what is cut, what is left out and counted, and that every stage asks it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import open_run, run_recipe
from rlhf_plugins.contract.rows import Group, Text
from rlhf_plugins.contract.run import Lengths
from rlhf_plugins.data.batches.lengths import (
    CUT,
    EQUAL,
    PROMPT_CUT,
    PROMPT_TOO_LONG,
    responses_taken,
)
from rlhf_plugins.data.batches.ranked import encodable, ranked_rows
from rlhf_plugins.data.batches.tokenized import prompts_with_room, tokenized_answers, tokenized_pairs
from rlhf_plugins.data.batches.tokens import TOO_LONG, TOO_LONG_FOR_MODEL, Fit, samples_of
from rlhf_plugins.engine.weights.loading import load_row_encoder
from rlhf_plugins.testing import tiny_base

TRAINER = {"max_steps": 1, "per_device_train_batch_size": 2, "disable_tqdm": True, "report_to": "none"}


def letters(prompt: Text, response: Text) -> tuple[list[int], list[int]]:
    """One token a letter."""
    return [ord(letter) for letter in str(prompt)], [ord(letter) for letter in str(response)]


def taken(lengths: Lengths, model: int | None = None, responses: Any = ("x", "yyy", "x")) -> tuple[Any, dict[str, int]]:
    left_out = Counter[str]()
    found = responses_taken("bpq", responses, letters, Fit(lengths, model, ord("b")), left_out)
    if not found or not found[0]:
        return None, dict(+left_out)
    spelt = ["".join(map(chr, ids)) for ids in (found[1].prompt, *found[1].branches)]
    return (found[0], spelt), dict(+left_out)


def test_what_is_too_long_is_left_out_by_reason() -> None:
    assert taken(Lengths()) == (([0, 1], ["bpq", "x", "yyy"]), {EQUAL: 1})
    assert taken(Lengths(5)) == (([0], ["bpq", "x"]), {TOO_LONG: 1, EQUAL: 1})
    assert taken(Lengths(9), 5) == (([0], ["bpq", "x"]), {TOO_LONG_FOR_MODEL: 1, EQUAL: 1})
    assert taken(Lengths(max_prompt_length=2)) == (None, {PROMPT_TOO_LONG: 1})


def test_a_cut_prompt_keeps_bos_and_its_end_and_a_cut_response_its_start() -> None:
    assert taken(Lengths(3, 2, "cut")) == (([0, 1], ["bq", "x", "y"]), {PROMPT_CUT: 1, CUT: 1, EQUAL: 1})
    assert taken(Lengths(4, None, "cut"), responses=("xy", "xz")) == (([0], ["bpq", "x"]), {CUT: 1, EQUAL: 1})
    assert taken(Lengths(3, None, "cut")) == (None, {TOO_LONG: 3})


@pytest.mark.parametrize(("truncation", "responses"), [("drop", 1), ("cut", 2)])
def test_training_and_evaluation_take_the_same_responses(tmp_path: Path, truncation: Any, responses: int) -> None:
    base = replace(tiny_base(tmp_path), lengths=Lengths(4, 2, truncation))
    encoder, groups = load_row_encoder(base), [Group("who is ", ("ant", "ant bee cat"), (0, 1))]
    (kept,), _ = encodable(groups, encoder)
    assert len(kept.responses) == responses
    rows = ranked_rows(groups, encoder.encode, encoder.fit, lambda group: True).dataset[0]
    assert rows["branch_ids"] == samples_of([kept], encoder).response_ids
    (answer,) = tokenized_answers(groups, encoder).dataset
    assert answer["input_ids"] == rows["prompt_ids"] + rows["branch_ids"][0]
    if truncation == "cut":
        (pair,) = tokenized_pairs(groups, encoder).dataset
        assert [pair["chosen_ids"], pair["rejected_ids"]] == rows["branch_ids"]


def test_prompts_that_are_sampled_from_are_never_cut(tmp_path: Path) -> None:
    encoder = load_row_encoder(replace(tiny_base(tmp_path), lengths=Lengths(4, 2, "cut")))
    kept, left_out = prompts_with_room([Group("who"), Group("who is"), Group("who is the")], encoder, 3)
    assert [group.prompt for group in kept] == ["who"]
    assert left_out == {PROMPT_TOO_LONG: 1, "prompt that leaves no room for 3 tokens of the 4 of max_length": 1}


@pytest.mark.slow
def test_every_stage_of_a_recipe_keeps_to_it(tmp_path: Path) -> None:
    words = ["ant", "bee", "cat", "dog"]
    rows = [
        {"prompt": f"{p} {'who ' * (n // 3)}", "chosen": "ant", "rejected": "bee cat dog"}
        for n, p in enumerate(words * 2)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {
        "base": tiny_base(tmp_path / "base").path,
        "max_length": 5,
        "max_prompt_length": 2,
        "truncation": "cut",
        "data": {"format": "preference", "source": str(tmp_path / "rows.jsonl"), "test_fraction": 0.25},
        "stages": [{"stage": name, "trainer": TRAINER} for name in ("sft", "preference", "reward_model")],
        "output_dir": str(tmp_path / "run"),
    }
    run_recipe(recipe)
    counted = open_run(tmp_path / "run").report.data.dropped
    both = {f"{name}: {PROMPT_CUT}": 2 for name in ("sft", "preference", "reward_model")}
    assert counted == {**both, **{f"{name}: {CUT}": 4 for name in ("preference", "reward_model")}}
