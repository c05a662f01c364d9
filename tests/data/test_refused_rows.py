"""All rows that cannot be read are named at once, and none is left out in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.rows import read_rows
from rlhf_plugins.errors import DataError
from rlhf_plugins.recipe.assemble import component

GOOD = '{"prompt": "p", "chosen": "a", "rejected": "b", "response": "a", "score": 1, "completion": "a", "label": "a"}'
LACKING = {"id": 7}  # no format can read it


def refused(tmp_path: Path, format: str, lines: list[str], **options: Any) -> str:
    """What loading the lines raises."""
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    made = component("data_format", {"use": format, "source": str(tmp_path / "rows.jsonl"), **options})
    with pytest.raises(DataError) as caught:
        made.load(Base(""), 0)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_every_kind_of_fault_is_named_with_its_rows(tmp_path: Path) -> None:
    torn, number, lacking = GOOD[:-1], GOOD.replace('"a"', "7", 1), GOOD.replace("rejected", "rejcted")
    found = refused(tmp_path, "preference", [GOOD, lacking, torn, lacking, number, lacking, GOOD]).splitlines()
    assert found[0] == "rows.jsonl: 5 rows cannot be read"
    assert [line.split(" ")[2] for line in found[1:]] == ["rows.jsonl:3:", "rows.jsonl:2:", "rows.jsonl:5:"]
    assert "is not JSON" in found[1]
    assert "did you mean rejcted?" in found[2]
    assert found[2].endswith("(and 2 more rows like it: rows.jsonl:4, rows.jsonl:6)")


def test_of_many_rows_the_first_ten_are_named(tmp_path: Path) -> None:
    found = refused(tmp_path, "preference", [GOOD, *[json.dumps(LACKING)] * 40])
    assert found.startswith("rows.jsonl:2: lacks the column 'chosen'")
    assert found.endswith("(and 39 more rows like it: " + "".join(f"rows.jsonl:{n}, " for n in range(3, 12)) + "...)")
    odd = refused(tmp_path, "preference", [json.dumps({f"id{n}": 1}) for n in range(15)])
    assert (len(odd.splitlines()), odd.splitlines()[-1]) == (12, "  and 5 more faults of other kinds")


@pytest.mark.parametrize("format", ["preference", "comparisons", "ratings", "rankings", "supervised", "prompts"])
def test_every_format_names_all_rows_that_it_cannot_read(tmp_path: Path, format: str) -> None:
    good = {"comparisons": GOOD.replace("chosen", "response_a").replace("rejected", "response_b")}.get(format, GOOD)
    ranked = '{"prompt": "p", "responses": ["a", "b"], "ranks": [0, 1]}'
    good = ranked if format == "rankings" else good.replace('"response": "a", ', "") if format == "supervised" else good
    found = refused(tmp_path, format, [good, json.dumps(LACKING), good, json.dumps(LACKING)])
    assert "rows.jsonl:2: " in found
    assert "(and 1 more row like it: rows.jsonl:4)" in found


def test_rows_of_another_form_are_all_named(tmp_path: Path) -> None:
    talk = '{"prompt": [{"role": "user", "content": "p"}]}'
    found = refused(tmp_path, "prompts", ['{"prompt": "p"}', talk, talk])
    cure = "`as_messages: true` beside the format makes messages of text"
    assert found == (
        f"rows.jsonl:2: is messages, the rows before it are text; {cure} (and 1 more row like it: rows.jsonl:3)"
    )


def test_without_a_place_to_gather_them_the_first_fault_raises(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n[]\n[]\n')
    with pytest.raises(DataError, match="rows.jsonl:2: expected an object with named fields, found list$"):
        list(read_rows(str(tmp_path / "rows.jsonl")))


def test_fields_of_a_csv_that_do_not_fit_its_header_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,chosen,rejected\np,a,b\np,a\nq,a,b\np,a,b,c\n")
    with pytest.raises(DataError, match=r"rows.csv:3: has not the 3 fields .* \(and 1 more row like it: rows.csv:5\)"):
        component("data_format", {"use": "preference", "source": str(tmp_path / "rows.csv")}).load(Base(""), 0)
