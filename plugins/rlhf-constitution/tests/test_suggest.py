"""What a constitution lacks, found from pairs that people judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rlhf_constitution.commands import app
from rlhf_constitution.constitution import Constitution
from rlhf_constitution.outcome import Abstain, NotApplicable, Ok
from rlhf_constitution.suggest import Case, cases_of, clusters, disagreements, suggestions
from rlhf_constitution.text import LengthBand
from typer.testing import CliRunner

from rlhf_plugins import Group, session

DIMENSIONS = ("harmless", "honest", "helpful", "concise")
SHORT = Constitution(principles=(LengthBand(1, 2),))


def test_a_case_has_the_response_that_people_preferred_first() -> None:
    groups = [Group("p", ("a", "b"), (1, 0)), Group("p", ("a", "b"), (0, 0)), Group("q", ("a", "b", "c"), (0, 1, 1))]
    assert cases_of(groups) == [Case("p", "b", "a"), Case("q", "a", "b"), Case("q", "a", "c")]


def test_a_disagreement_is_a_pair_that_the_constitution_ties_or_turns_round() -> None:
    cases = [Case("p", "a b", "a b c d"), Case("p", "a b c d", "a b"), Case("p", "a", "b"), Case("p", "a", "?")]
    good, bad = (
        [SHORT.judge({"length_band": LengthBand(1, 2)("p", text)}) for text in texts]
        for texts in zip(*((c.chosen, c.rejected) for c in cases), strict=True)
    )
    bad[3] = SHORT.judge({"length_band": Abstain("busy")})
    assert disagreements(cases, good, bad) == ([cases[1], cases[2]], 1)


def test_principles_are_ranked_by_what_they_settle_less_what_they_oppose() -> None:
    good, bad, none = Ok(1.0), Ok(0.0), NotApplicable()
    found = suggestions(
        {
            "a": [(good, bad), (bad, good), (good, bad)],
            "b": [(good, bad), (none, bad), (good, good)],
            "c": [(good, bad)] * 3,
        }
    )
    assert [str(one) for one in found] == [
        "c: settles 3 of 3 disagreements, opposes 0",
        "a: settles 2 of 3 disagreements, opposes 1",
        "b: settles 1 of 3 disagreements, opposes 0",
    ]


def test_cases_are_grouped_by_the_word_that_tells_their_sides_apart() -> None:
    rude = [Case("p", "it is red", f"it is {color}, you fool") for color in ("red", "blue", "green", "black")]
    sure = [Case("p", "perhaps so", "so"), Case("p", "perhaps not", "not"), Case("p", "perhaps", "x")]
    found = clusters([*rude, *sure])
    assert [(one.word, one.rejected, len(one.cases)) for one in found] == [("fool", True, 4), ("perhaps", False, 3)]


@pytest.mark.parametrize(
    "missing", [DIMENSIONS[0], *(pytest.param(each, marks=pytest.mark.slow) for each in DIMENSIONS[1:])]
)
def test_the_principle_that_was_taken_out_of_the_sandboxs_constitution_is_ranked_first(
    tmp_path: Path, missing: str
) -> None:
    data = {
        "format": "sandbox",
        "writer": "sloppy",
        "prompts": 120,
        "test_prompts": 1,
        "annotator": {"temperature": 0.01},
    }
    pairs = session("sandbox", data, tmp_path / "run").data.train
    rows = [
        {"prompt": g.prompt, "chosen": g.responses[g.ranks.index(0)], "rejected": g.responses[g.ranks.index(1)]}
        for g in pairs
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = [f"  - {{use: truth, name: {one}, dimension: {one}}}\n" for one in DIMENSIONS if one != missing]
    (tmp_path / "c.yaml").write_text("principles:\n" + "".join(kept))
    words = ["suggest", str(tmp_path / "c.yaml"), str(tmp_path / "rows.jsonl"), "--library", "sandbox"]
    done = CliRunner().invoke(app, words)
    assert done.output.splitlines()[1].startswith(f"  {missing}: settles"), done.output
