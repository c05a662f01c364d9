"""Labels that people confirm or correct: shown where they are to be verified, marked, and no independent votes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rlhf_collect import release as releases
from rlhf_collect import suggest as suggesting
from rlhf_collect.commands import collect
from rlhf_collect.reporting import lines
from rlhf_collect.store import tables
from rlhf_collect.store.rows import Asked, Written, read_rows, write_rows
from rlhf_collect.suggest import suggest
from rlhf_collect.summary import summarise
from sqlalchemy import select
from studies import Browser, pair, prefers_good, study
from typer.testing import CliRunner

from rlhf_plugins import DataError

LABEL = "A label to check:"


def confirm(shown: list[str]) -> int:
    """2 for the side that is good."""
    return 2 if shown[0].startswith("good") else -2


def test_answers_with_a_label_shown_are_votes_only_where_they_are_asked_for_and_marked(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1, verify=2), pair(2)], votes=2)
    for name in ("Ada", "Ben"):
        browser = Browser(made, name)
        for _ in range(2):
            labelled = LABEL in browser.page
            assert labelled is ("prompt 1" in browser.page)
            browser.judge(choice=str(confirm(browser.shown())))
    plain = releases.make(made, releases.Parameters(test_fraction=0.0))
    assert [(one.item.prompt, one.provenance()["verified"]) for one in plain.rows] == [("prompt 2", 0)]
    assert plain.left_out == {"answered with a label shown (--verified counts them)": 1}
    both = releases.make(made, releases.Parameters(test_fraction=0.0, verified=True))
    assert [(one.item.prompt, one.provenance()["verified"]) for one in both.rows] == [("prompt 1", 2), ("prompt 2", 0)]
    assert releases.load(made, 2) == both


def test_the_label_is_confirmed_by_one_button_and_corrected_by_the_others(tmp_path: Path) -> None:
    browser = Browser(study(tmp_path, [pair(1, verify=2), pair(2, verify=2)], votes=1), "Ada")
    for answer in (confirm, lambda shown: -confirm(shown)):
        left = "Left answer" if confirm(browser.shown()) > 0 else "Right answer"
        assert f"{LABEL} {left}." in " ".join(browser.page.split())
        assert f'class="confirm" name="choice" value="{confirm(browser.shown())}"' in browser.page
        browser.judge(choice=str(answer(browser.shown())))
    assert summarise(browser.study, 2).verified == (2, 1)
    assert "2 answers with a label shown, which are no votes: 1 confirm it" in list(lines(browser.study))


def test_agreement_and_abilities_leave_them_out(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n, verify="a") for n in range(3)], votes=2)
    for name in ("Ada", "Ben"):
        Browser(made, name).work(prefers_good)
    found = summarise(made, 2)
    assert (found.votes, found.gate, [one.ability for one in found.people]) == (0, None, [None, None])


def test_a_reviewer_sees_no_label_and_decides(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1, verify="b")], votes=1)
    Browser(made, "Ada").judge(act="flagged", reason="odd")
    rita = Browser(made, "Rita", "reviewer")
    assert LABEL not in rita.page
    rita.judge(choice="1")
    with made.database.reading() as connection:
        assert connection.execute(select(tables.annotation.c.verified)).scalars().all() == [1, 0]


def test_who_confirms_a_wrong_label_of_a_gold_item_was_wrong(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1, purpose="gold", known="a", verify="b")], gold_share_first=1.0)
    browser = Browser(made, "Ada")
    browser.desk.random = Random(0)
    browser.page = browser.http.get("/").text
    assert LABEL in browser.page
    browser.judge(choice=str(-prefers_good(browser.shown())))
    assert [one.known for one in summarise(made, 2).people] == [(0, 1)]


@pytest.mark.parametrize(
    ("settings", "label", "field"),
    [
        ({"kind": "ranking"}, [3, 1, 2], "place_0"),
        ({"kind": "rating", "dimensions": ("honest",)}, {"honest": [3, 1, 2]}, "honest_0"),
    ],
)
def test_the_label_of_a_ranking_or_rating_is_filled_in(
    tmp_path: Path, settings: dict[str, Any], label: object, field: str
) -> None:
    row = Asked("", "p", tuple(Written(text, {}) for text in ("third", "first", "second")), verify=label)
    browser = Browser(study(tmp_path, [row], **settings), "Ada")
    places = {"third": 3, "first": 1, "second": 2}
    assert f'name="{field}" value="{places[browser.texts()[0]]}" required checked' in browser.page


def test_a_models_label_is_shown_with_gold_items_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = study(tmp_path, [pair(1), pair(2, purpose="gold", known="a"), pair(3, verify="a")])
    monkeypatch.setattr(suggesting, "_values", lambda reward, items: [1] * len(items))
    assert suggest(made, "runs/a", verify=True) == 2
    with made.database.reading() as connection:
        assert connection.execute(select(tables.suggestion.c.before)).scalars().all() == [1, 1, 1]


def test_a_label_in_a_file_is_read_and_one_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    write_rows(file, [pair(1, verify="tie")])
    (row,) = read_rows(file, Counter())
    assert row.verify == "tie"
    file.write_text(json.dumps({"prompt": "p", "responses": ["a", "b"], "verify": "left"}))
    with pytest.raises(DataError, match=r"rows.jsonl:1: verify should be a, b, tie, or -5 to 5 .* got 'left'"):
        study(tmp_path, list(read_rows(file, Counter())))


def test_the_command_marks_every_row_and_refuses_what_changes_nothing(tmp_path: Path) -> None:
    made, run = study(tmp_path, [pair(1, verify="a")], votes=1), CliRunner()
    Browser(made, "Ada").work(prefers_good)
    arguments = ["export", str(made.folder), "--release", "1", "--verified"]
    assert "release 1: " in run.invoke(collect, arguments).output
    (row,) = [json.loads(line) for file in made.folder.glob("releases/1/*.jsonl") for line in file.open()]
    assert row["verified"] == 1
    assert "release 1 is not the next, 2" in str(run.invoke(collect, arguments).exception)
