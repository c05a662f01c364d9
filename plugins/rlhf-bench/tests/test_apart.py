"""A judge's rows share no prompt with those that policies learn from, whatever the seed and the source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rlhf_bench.apart import HELD_OUT, OF_OTHERS, drawn

from rlhf_plugins import Base, Data, DataError, Group, component

ROWS = {"format": "sandbox", "writer": "sloppy", "prompts": 40, "test_prompts": 4, "pairs": 2}


def loaded(seed: int = 1, **spec: Any) -> Data:
    found: Data = component("data_format", spec.pop("use"), **spec).load(Base(""), seed)
    return found


def prompts(data: Data) -> set[str]:
    return {str(group.prompt) for group in data.train}


def test_two_parts_share_no_prompt_and_are_the_same_under_every_seed() -> None:
    whole = component("data_format", ROWS["format"], **{k: v for k, v in ROWS.items() if k != "format"})
    parts = [
        [loaded(seed, use="apart", rows=ROWS, share=0.25, part=part) for part in ("policies", "judge")]
        for seed in (1, 2)
    ]
    for policies, judge in parts:
        assert prompts(policies) | prompts(judge) == prompts(whole.load(Base(""), 1))
        assert not prompts(policies) & prompts(judge)
        assert not {str(g.prompt) for g in policies.prompts["train"]} & {str(g.prompt) for g in judge.prompts["train"]}
        assert len(policies.test) == len(judge.test) > 0
    assert [prompts(data) for data in parts[0]] == [prompts(data) for data in parts[1]]
    assert 4 <= len(prompts(parts[0][1])) <= 16  # about a quarter of 40


def test_about_how_many_rows_a_part_has() -> None:
    """Of 80 pairs."""
    parts = [component("data_format", "apart", rows=ROWS, share=0.25, part=part) for part in ("policies", "judge")]
    assert [part.known_rows() for part in parts] == [60, 20]


def test_a_prompts_part_follows_from_its_words() -> None:
    one, other = Group("Why is  the sky blue?\n", ("a",)), Group("why is the sky blue?", ("b",))
    assert 0 <= drawn(one) == drawn(other) < 1


def written(file: Path, *asked: str) -> dict[str, Any]:
    rows = [{"prompt": prompt, "chosen": "yes", "rejected": "no"} for prompt in (*asked, "held out")]
    lines = [json.dumps(row) + "\n" for row in rows]
    file.write_text("".join(lines[:-1]))
    (test := file.with_suffix(".test.jsonl")).write_text(lines[-1])
    return {"format": "preference", "source": str(file), "test_source": str(test)}


def test_a_part_without_rows_is_refused(tmp_path: Path) -> None:
    rows = written(tmp_path / "a.jsonl", "why")
    with pytest.raises(DataError, match="apart: share: 1e-09 of 1 rows leaves none for judge"):
        loaded(use="apart", rows=rows, share=1e-9, part="judge")


def test_rows_of_a_file_of_its_own_that_policies_learn_from_are_left_out_and_counted(tmp_path: Path) -> None:
    own, others = (
        written(tmp_path / "own.jsonl", "one", "two", "three"),
        written(tmp_path / "others.jsonl", "Two ", "four"),
    )
    found = loaded(use="unseen", rows=own, by=others)
    assert prompts(found) == {"one", "three"}
    assert (found.dropped[OF_OTHERS], HELD_OUT in found.dropped) == (1, False)
    assert OF_OTHERS not in loaded(use="unseen", rows=own, by=written(tmp_path / "far.jsonl", "four")).dropped
    with pytest.raises(DataError, match="none is left for the judge"):
        loaded(use="unseen", rows=own, by=own)


def test_rows_whose_prompts_are_held_out_are_left_out_and_counted_apart(tmp_path: Path) -> None:
    own, others = written(tmp_path / "own.jsonl", "one", "Held  out", "two"), written(tmp_path / "others.jsonl", "two")
    strange, own["test_source"] = (written(tmp_path / f"{name}.jsonl", name)["source"] for name in ("one", "far"))
    found = loaded(use="unseen", rows=own, by=others)
    assert prompts(found) == {"one"}
    assert (found.dropped[OF_OTHERS], found.dropped[HELD_OUT]) == (1, 1)
    with pytest.raises(DataError, match="or are judged on it"):
        loaded(use="unseen", rows=own, by={**others, "out_of_distribution": strange})
