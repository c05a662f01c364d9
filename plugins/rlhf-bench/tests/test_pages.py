"""A page says what its JSON holds, and of which prompts it counts FLOPs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rlhf_bench.measures import measure
from rlhf_bench.pages import main, page_of, write
from rlhf_bench.runs import perform
from rlhf_bench.suite import read

Write = Callable[..., Path]
PUBLISHED = sorted((Path(__file__).parents[3] / "docs" / "benchmarks").glob("suite_*.json"))
COUNTED = "a prompt was computed, and its FLOPs counted, for each response that was sampled to it"


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_a_published_page_is_that_of_its_json(file: Path) -> None:
    assert page_of(json.loads(file.read_text())) == file.with_suffix(".md").read_text()


def test_a_suite_that_sampled_before_prompts_were_computed_once_says_so() -> None:
    content = json.loads(next(file for file in PUBLISHED if file.stem == "suite_three_ways").read_text())
    (said,) = [line for line in page_of(content).splitlines() if COUNTED in line]
    assert said.startswith("- ppo: ")  # DPO and IPO sample nothing as they train
    for run in content["runs"]:
        run["prompts_once"] = True
    assert COUNTED not in page_of(content)


def test_a_run_that_begins_now_computes_prompts_once(suite: Write, tmp_path: Path) -> None:
    found = read(suite(seeds=[1]))
    dpo, ipo = found.cells
    assert not perform(dpo, tmp_path)
    assert not perform(ipo, tmp_path)
    (tmp_path / "cells" / f"{ipo.digest}.once").unlink()  # as one that an older version began
    rows = measure(found, tmp_path)
    assert [row["prompts_once"] for row in rows] == [True, False]
    write(found, rows, tmp_path)
    written, file = (tmp_path / "bench.md").read_text(), tmp_path / "suite_small.json"
    (tmp_path / "bench.json").rename(file)
    main([str(tmp_path)])
    assert file.with_suffix(".md").read_text() == written
