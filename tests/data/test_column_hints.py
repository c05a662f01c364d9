"""A message on rows with other columns ends with the option that reads them, where the names can be guessed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.formats.column_hints import as_columns
from rlhf_plugins.errors import DataError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.registry.registry import registry
from rlhf_plugins.run.session import recognised


@pytest.mark.parametrize(
    ("names", "option"),
    [
        (("question", "good", "bad"), "columns: {prompt: question, chosen: good, rejected: bad}"),
        (
            ("User query", "better_answer", "worse-answer"),
            "columns: {prompt: User query, chosen: better_answer, rejected: worse-answer}",
        ),
        (("chosn", "rejected"), "columns: {chosen: chosn}"),
        (("prompt", "good", "best", "bad"), ""),  # two could be the chosen one
        (("a", "b"), ""),
        (("prompt", "chosen", "rejected"), ""),
    ],
)
def test_columns_are_guessed_where_one_fits_each(names: tuple[str, ...], option: str) -> None:
    assert as_columns(dict.fromkeys(names, "text")) == option


def load(tmp_path: Path, row: dict[str, Any], **options: Any) -> Any:
    """Two rows like this one as pairs."""
    (file := tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({**row, "more": i}) for i in range(2)))
    return component("data_format", {"use": "preference", "source": str(file), **options}).load(Base(""), 0)


@pytest.mark.parametrize(
    "row", [{"question": "p", "good": "a", "bad": "b"}, {"first post": "p", "chosen": "a", "rejected": "b"}]
)
def test_the_option_that_a_message_gives_reads_the_rows(tmp_path: Path, row: dict[str, str]) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, row)
    found = re.search("write `(columns: .*?)`", str(caught.value))
    assert found
    (group,) = load(tmp_path, row, **yaml.safe_load(found[1])).train
    assert (group.prompt, group.responses) == ("p", ("a", "b"))


def test_pairs_without_a_prompt_are_given_a_remedy(tmp_path: Path) -> None:
    remedy = r"; add a column `prompt`, or write `columns: {prompt: NAME}` if it has another name \(and 1 more row"
    with pytest.raises(DataError, match=r"share no beginning that could be one \(an implicit prompt\)" + remedy):
        load(tmp_path, {"chosen": "yes", "rejected": "no"})


ALONE, ANSWERED, PAIR = (
    {"prompt": "p"},
    {"prompt": "q", "completion": "a"},
    {"prompt": "r", "chosen": "a", "rejected": "b"},
)
RATED = {"prompt": "s", "response": "a", "score": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [ALONE, ANSWERED],
            "2: has the columns of supervised .prompt, completion., and the first row those of",
        ),
        ([ALONE, {**ALONE, "id": 4}, PAIR], "3: has the columns of preference .prompt, chosen, rejected."),
        ([ALONE, {**ALONE, "chosen": "a"}], "2: has the columns of no known format .prompt, chosen."),
        (
            [ANSWERED, RATED],
            "2: has the columns of ratings .prompt, response, score., and the first row",
        ),
    ],
)
def test_a_later_row_of_another_format_is_not_read_as_the_first(tmp_path: Path, rows: Any, message: str) -> None:
    (file := tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=f"rows.jsonl:{message}.*: write rows of one format, or advice"):
        recognised(str(file), registry(), "advice")


@pytest.mark.parametrize("rows", [[ALONE, {**ALONE, "answer": "4"}], [ANSWERED, {**ANSWERED, "label": True}]])
def test_later_rows_may_have_more_columns(tmp_path: Path, rows: Any) -> None:
    (file := tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert recognised(str(file), registry(), "") == ("prompts" if rows[0] is ALONE else "supervised")
