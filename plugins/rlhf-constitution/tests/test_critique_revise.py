"""What the stage shows of a revision, and its limit of perplexity."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rlhf_constitution.answering import training_prompts
from rlhf_constitution.critique_revise import difference
from rlhf_constitution.fluency import fluent, perplexities

from rlhf_plugins import RunError, open_run, run_recipe
from rlhf_plugins.testing import tiny_base, tiny_run


def test_a_difference_shows_what_went_and_what_came() -> None:
    assert difference("you fool. it is red", "it is blue") == "[-you fool.-] it is [-red-] [+blue+]"


def test_data_without_prompts_are_refused(tmp_path: Path) -> None:
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run")
    run.data.prompts.clear()
    with pytest.raises(RunError, match="no training prompts"):
        training_prompts(run)


def test_perplexity_is_by_token(tmp_path: Path) -> None:
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run")
    policy = run.policy()
    samples = policy.encode(["why\n"], ["cat dog"])
    expected = math.exp(-policy.log_probs(samples).sum().item() / 3)  # cat, dog and the end
    assert perplexities(policy, "why\n", ["cat dog"]) == [pytest.approx(expected)]
    assert fluent(run, 1.0)("why\n", "cat dog", "cat dog") == ""
    assert fluent(run, 1e-9)("why\n", "cat dog", "cat").startswith("its perplexity is")


@pytest.mark.slow
def test_a_limit_that_nothing_keeps_rejects_every_revision(tmp_path: Path) -> None:
    stage: dict[str, Any] = {
        "stage": "critique_revise",
        "constitution": "sandbox",
        "reviser": "simulated",
        "prompts": 10,
    }
    stage |= {"max_perplexity": 1e-9, "sampling": {"max_new_tokens": 32}}
    data = {"format": "sandbox", "writer": "sloppy", "prompts": 20, "test_prompts": 2}
    recipe = {"base": "sandbox", "data": data, "output_dir": str(tmp_path / "run"), "stages": [stage]}
    record = open_run(run_recipe(recipe, say=lambda line: None).folder)
    (file,) = record.folder.glob("*/revisions.jsonl")
    attempts = [one for line in file.read_text().splitlines() for one in json.loads(line)["attempts"]]
    assert any(one["reason"].startswith("its perplexity is") for one in attempts)
    assert not any(one["accepted"] for one in attempts)
