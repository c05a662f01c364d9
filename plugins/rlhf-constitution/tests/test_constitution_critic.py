"""A critique in an assistant's words, and what becomes of words that are of no use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rlhf_constitution.critic import unreadable, worded
from rlhf_constitution.critique import Critique
from rlhf_constitution.revision import Request

from rlhf_plugins import RlhfError, open_run, run_recipe

REQUEST = Request("why?", "because, you fool", Critique("kind", "style", 4, "its value is 0.20", "", "keep it"))
Serve = Callable[[Callable[[dict[str, Any]], tuple[int, Any]]], str]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("it insults.\nWhere: 'you fool'\nFix: leave that out.", ("it insults", "you fool", "leave that out")),
        ("Wrong: it insults\nWhere: you idiot", ("it insults", "", "keep it")),  # not in the response
        ("**Fix:** be kind", ("its value is 0.20", "", "be kind")),
    ],
)
def test_an_answer_becomes_the_critiques_words(answer: str, expected: tuple[str, str, str]) -> None:
    found = worded(REQUEST, answer).critique
    assert (found.why, found.where, found.fix) == expected
    assert (found.principle, found.severity) == ("kind", 4)


def test_an_instruction_needs_its_places(tmp_path: Path) -> None:
    (tmp_path / "i.txt").write_text("Look at {principle}.")
    assert unreadable(str(tmp_path / "i.txt")).endswith("has no {angle} in it")
    assert unreadable("nope.txt") == "no such file: nope.txt"


def recipe(folder: Path, **options: Any) -> dict[str, Any]:
    stage = {"stage": "critique_revise", "constitution": "sandbox", "reviser": "simulated", "prompts": 6, "rounds": 1}
    data = {"format": "sandbox", "writer": "sloppy", "prompts": 12, "test_prompts": 2}
    stage |= {"sampling": {"max_new_tokens": 24}, **options}
    return {"base": "sandbox", "data": data, "output_dir": str(folder / "run"), "stages": [stage]}


def test_the_critics_words_are_in_the_record_and_what_is_no_verdict_rejects(tmp_path: Path, serve: Serve) -> None:
    url = serve(lambda body: (200, {"choices": [{"message": {"content": "it could be better\nFix: do better"}}]}))
    server = {"use": "server", "url": url, "model": "m"}
    asked = recipe(tmp_path, critic=server, meaning=server)
    record = open_run(run_recipe(asked, say=lambda line: None).folder)
    (file,) = record.folder.glob("*/revisions.jsonl")
    attempts = [one for line in file.read_text().splitlines() for one in json.loads(line)["attempts"]]
    assert attempts
    assert {one["critique"]["why"] for one in attempts} == {"it could be better"}
    assert not any(one["accepted"] for one in attempts)
    assert any(one["reason"].startswith("nobody could say whether it keeps the meaning") for one in attempts)


def test_an_instruction_that_is_not_there_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(RlhfError, match=r"stages.0.criticism: no such file: nope.txt"):
        run_recipe(recipe(tmp_path, criticism="nope.txt", critic="policy"), say=lambda line: None)
    (tmp_path / "i.txt").write_text("Look at {principle}. {angle}")
    with pytest.raises(RlhfError, match=r"stages.0.criticism: no `critic` is given"):
        run_recipe(recipe(tmp_path, criticism=str(tmp_path / "i.txt")), say=lambda line: None)
