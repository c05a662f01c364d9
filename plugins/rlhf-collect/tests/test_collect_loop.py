"""The whole loop: people judge in their browsers, a release is made, and a recipe reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from rlhf_collect import release as releases
from rlhf_collect.commands import collect
from rlhf_collect.export import write
from rlhf_collect.shapes.every import SHAPES
from rlhf_collect.store.rows import read_rows
from studies import Browser, pair, prefers_good, study
from typer.testing import CliRunner

from rlhf_plugins import Base, DataError, check_recipe, component, features, session


def rows_of(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_what_three_people_said_is_what_a_release_has(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n) for n in range(8)])
    for name in ("Ada", "Ben"):
        assert Browser(made, name).work(prefers_good) == 8
    assert Browser(made, "Cai").work(lambda shown: -prefers_good(shown)) == 8
    write(releases.make(made, releases.Parameters(test_fraction=0.3)), tmp_path)
    found = rows_of(tmp_path / "train.jsonl") + rows_of(tmp_path / "test.jsonl")
    assert sorted(str(row["chosen"]) for row in found) == [f"good {n}" for n in range(8)]
    assert {row["margin"] for row in found} == {1.0}  # (3 + 3 - 3) / 3
    assert {row["weight"] for row in found} == {1 / 3}  # (2 - 1) / 3
    assert found[0]["votes"] == {"a": 2, "b": 1}
    assert found[0]["origins"] == {"chosen": {"model": "model-g"}, "rejected": {"model": "model-b"}}


@pytest.mark.parametrize(("strengths", "label", "margin"), [((1, 1, -5), "a", 0.0), ((-4, -4, 5), "b", 1.0)])
def test_a_margin_is_the_mean_strength_in_favour_of_the_label(
    tmp_path: Path, strengths: tuple[int, ...], label: str, margin: float
) -> None:
    made = study(tmp_path, [pair(1)])
    for n, strength in enumerate(strengths):
        choices = {True: strength, False: -strength}
        Browser(made, f"p{n}").work(lambda shown, of=choices: of[shown[0].startswith("good")])
    (one,) = releases.make(made, releases.Parameters(test_fraction=0.0)).rows
    row = SHAPES["pair"].row(one)
    assert (one.verdicts[""].label, row["margin"]) == (label, pytest.approx(margin))


def test_a_recipe_reads_a_release(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n) for n in range(8)], votes=1)
    Browser(made, "Ada").work(lambda shown: 0 if shown[0].endswith("3") else prefers_good(shown))
    releases.make(made, releases.Parameters(test_fraction=0.2))
    data = component("data_format", "collected", source=str(made.folder)).load(Base("sandbox"), 0)
    groups = [*data.train, *data.test]
    assert sorted(group.responses[group.comparisons[0].better] for group in groups) == [f"good {n}" for n in range(8)]
    assert [group.prompt for group in groups if group.comparisons[0].tied] == ["prompt 3"]
    recipe = {"base": "sandbox", "stages": [{"stage": "reward_model", "loss": {"use": "weighted"}}]}
    check_recipe({**recipe, "data": {"format": "collected", "source": str(made.folder)}})


def test_votes_are_kept_apart_for_losses_that_read_annotators(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n) for n in range(2)], votes=2)
    Browser(made, "Ada").work(prefers_good)
    Browser(made, "Ben").work(lambda shown: 5 if shown[0].startswith("good") else -5)
    releases.make(made, releases.Parameters(test_fraction=0.0))
    data = component("data_format", "collected", source=str(made.folder), votes="apart").load(Base("sandbox"), 0)
    assert [(c.better, c.margin, c.annotator) for c in data.train[0].comparisons] == [(0, 3.0, "p1"), (0, 5.0, "p2")]


def test_a_file_of_a_release_says_which_format_reads_its_votes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = study(tmp_path, [pair(0)], votes=1)
    Browser(made, "Ada").work(prefers_good)
    write(releases.make(made, releases.Parameters(test_fraction=0.0)), tmp_path)
    session("sandbox", tmp_path / "train.jsonl", tmp_path / "run")
    (said,) = (each.getMessage() for each in caplog.records if each.levelname == "WARNING")
    assert "train.jsonl:1: a column counts votes: losses read of them the column weight alone; `--format" in said
    assert "`--format collected votes=apart`" in said


def test_a_file_of_a_release_shows_how_often_people_agree_as_the_study_does(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n) for n in range(4)], votes=3)
    Browser(made, "Ada").work(prefers_good)
    Browser(made, "Ben").work(prefers_good)
    Browser(made, "Cem").work(lambda shown: -3 if shown[0].startswith("good") else 3)
    write(releases.make(made, releases.Parameters(test_fraction=0.0)), tmp_path)
    sources = {"preference": {"source": str(tmp_path / "train.jsonl")}}
    sources["collected"] = {"source": str(made.folder), "votes": "apart"}
    made_of = (component("data_format", name, **options) for name, options in sources.items())
    of_file, of_study = (features(one.load(Base("sandbox"), 0)) for one in made_of)
    assert of_file.agreement == of_study.agreement == pytest.approx(1 / 3)  # one of three pairs of votes
    assert of_file.judged_again == of_study.judged_again == 4


def test_a_release_stays_as_it_was_made(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n) for n in range(4)], votes=1)
    browser = Browser(made, "Ada")
    browser.judge(choice="2")
    first = releases.make(made, releases.Parameters())
    browser.work(prefers_good)
    second = releases.make(made, releases.Parameters())
    assert releases.load(made, 1) == first
    assert (len(first.rows), len(second.rows)) == (1, 4)
    changes = releases.difference(first, second)
    assert {name: len(items) for name, items in changes.items()} == {"added": 3, "removed": 0, "changed": 0}


def test_the_commands_make_a_study_report_it_and_export_it(tmp_path: Path) -> None:
    run, folder = CliRunner(), str(tmp_path / "study")
    assert "120 judgements" in run.invoke(collect, ["demo", folder, "--no-page"]).output
    assert "log: whole" in run.invoke(collect, ["report", folder]).output
    assert "release 1: " in run.invoke(collect, ["export", folder, "--release", "1"]).output
    assert rows_of(tmp_path / "study/releases/1/train.jsonl")


NO_ROWS = [
    ("{", "rows.jsonl:1: is not JSON"),
    ("[" * 9000, "rows.jsonl:1: is not JSON"),
    ("", "rows.jsonl: no row that people can judge"),
    ('{"prompt": "p", "responses": ["a", "a"]}', "can judge; left out: 1 fewer than 2 different answers"),
    ('{"prompt": " ", "responses": ["a", "b"]}', "can judge; left out: 1 without text"),
    ('{"prompt": "p", "responses": ["a", "b"], "gold": "x"}', "rows.jsonl:1: gold "),
]


@pytest.mark.parametrize(("text", "words"), NO_ROWS)
def test_a_study_whose_rows_cannot_be_judged_is_not_made(tmp_path: Path, text: str, words: str) -> None:
    file, made, run = tmp_path / "rows.jsonl", tmp_path / "study", CliRunner()
    file.write_text(text)
    asked = ["new", str(made), "--prompts", str(file)]
    assert words in str(run.invoke(collect, asked).exception)
    assert not made.exists()
    file.write_text(json.dumps({"prompt": "p", "responses": ["a", "b"]}))
    assert "added items: 1 judged" in run.invoke(collect, asked).output
    file.write_text(text)
    assert words in str(run.invoke(collect, ["add", str(made), "--prompts", str(file)]).exception)


def test_a_study_without_prompts_waits_for_those_of_a_training(tmp_path: Path) -> None:
    made, run = str(tmp_path / "study"), CliRunner()
    assert "--policy answers the prompts" in str(run.invoke(collect, ["new", made, "--policy", "p"]).exception)
    assert run.invoke(collect, ["new", made]).output == f"next: rlhf collect serve {made}\n"
    assert "holds a study already" in str(run.invoke(collect, ["new", made, "--prompts", "none.jsonl"]).exception)


def test_no_release_is_made_where_nobody_judged(tmp_path: Path) -> None:
    made, run = study(tmp_path, [pair(0)], votes=1), CliRunner()
    failed = run.invoke(collect, ["export", str(made.folder)]).exception
    assert str(failed) == f"{made.folder}: nobody has judged an item, so that no release is made"
    assert (releases.newest(made), (made.folder / "releases").exists()) == (0, False)
    Browser(made, "Ada").work(prefers_good)
    assert "release 1: " in run.invoke(collect, ["export", str(made.folder)]).output


def test_a_line_of_a_file_ends_at_a_newline_alone(tmp_path: Path) -> None:
    row = {"prompt": "one\u2028line", "responses": ["a\x85b", "c"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    (found,) = read_rows(tmp_path / "rows.jsonl", Counter())
    assert (found.prompt, found.answers[0].text) == (row["prompt"], "a\x85b")


def test_digests_are_asked_for_in_lots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_collect.store.judged.ASKED", 2)
    made = study(tmp_path, [pair(n) for n in range(5)])
    assert made.add([pair(4), pair(5)]) == ({"judged": 1}, Counter({"twice": 1, "fewer than 2 different answers": 0}))


def test_no_file_of_another_release_stays_in_a_folder(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(0)], votes=1)
    (tmp_path / "ties.jsonl").write_text("of another release")
    Browser(made, "Ada").work(prefers_good)
    made_of_one = releases.make(made, releases.Parameters(test_fraction=0.0))
    assert write(made_of_one, tmp_path) == {"train": 1, "test": 0, "ties": 0}
    assert (tmp_path / "ties.jsonl").read_text() == ""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("rlhf_watch") is None, reason="needs rlhf-watch, whose command compares")
def test_votes_are_compared_while_people_go_on(tmp_path: Path) -> None:
    """Each look exports a release and compares all so far; at the second nobody doubts any more."""
    made = study(tmp_path, [pair(n) for n in range(20)], votes=1)
    browser, said = Browser(made, "Ada"), []
    for judged in (6, 14):
        for _ in range(judged):
            browser.judge(choice=str(prefers_good(browser.shown())))
        assert CliRunner().invoke(collect, ["export", str(made.folder)]).exit_code == 0
        asked = [sys.executable, "-m", "rlhf_plugins.cli", "compare", str(made.folder / "releases")]
        said.append(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    assert "model-g: no difference from model-b is shown; it is preferred on 100.0% of 6 prompts" in said[0]
    assert (
        "model-g is better than model-b: it is preferred on 100.0% of 20 prompts, by all evidence of 2 looks" in said[1]
    )


def test_what_is_no_text_is_said_in_a_line(tmp_path: Path) -> None:
    made, odd = study(tmp_path, [pair(0)]), tmp_path / "odd.md"
    odd.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"odd.md: cannot be read: 'utf-8' codec"):
        CliRunner().invoke(collect, ["guide", str(made.folder), str(odd)], catch_exceptions=False)
    odd.write_text('{"prompt": "p", "responses": [{"text": "a", "score": NaN}, "b"]}')
    with pytest.raises(DataError, match="odd.md:1: is not JSON: NaN is no number of JSON"):
        CliRunner().invoke(collect, ["add", str(made.folder), "--prompts", str(odd)], catch_exceptions=False)
