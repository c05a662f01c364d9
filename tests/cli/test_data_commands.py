"""`rlhf data`: what is counted and printed, what is written, and that every mistake is one helpful line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from templates import chat_base

from rlhf_plugins.sandbox import POLICY
from rlhf_plugins.testing import tiny_base

Rlhf = Callable[..., Result]


def write(name: str, *rows: dict[str, Any]) -> None:
    Path(name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def pair(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


RATED = [
    {"prompt": "p", "response": "x", "score": 1},
    {"prompt": "p", "response": "yy", "score": 3},
    {"prompt": "q", "response": "z", "score": 2},
]


def test_check_says_of_contradictions_that_they_are_left_out(rlhf: Rlhf) -> None:
    write("a.jsonl", pair("p", "a", "b"), pair("p", "b", "a"), pair("q", "c", "d"), pair("r", "e", "f"))
    out = rlhf("data", "check", "a.jsonl").stdout
    assert "  2 contradicted by another row: a.jsonl:1, a.jsonl:2\n" in out
    left = "0 pairs ordered both ways in what is left, and 2 rows left out since another contradicts them"
    assert f"contradictions: {left}\n" in out


def test_check_warns_of_margins_that_contradict_their_labels(rlhf: Rlhf) -> None:
    rows = [{**pair(f"p{place}", "a", "b"), "margin": margin} for place, margin in enumerate([1, -0.5, 0, -2])]
    write("a.jsonl", *rows, pair("q", "c", "d"))
    assert "warning: 2 of 4 margins are negative, which contradicts their labels: a loss that reads margins" in (
        rlhf("data", "check", "a.jsonl").stdout
    )
    write("b.jsonl", *rows[::2])
    assert "margins" not in rlhf("data", "check", "b.jsonl").stdout


def test_check_counts_what_it_finds(rlhf: Rlhf) -> None:
    good, other = pair("p", "aaa", "b"), pair("q", "c", "dd")
    write("a.jsonl", good, other, good, pair("r", "x", "x"))
    result = rlhf("data", "check", "a.jsonl")
    assert (result.exit_code, result.stderr) == (0, "format: preference (guessed from the columns)\n")
    assert result.stdout.splitlines() == [
        "rows: 4",
        "prompts: 2",
        "groups: 2 (1 train, 1 test)",
        "responses: 4",
        "comparisons: 2, of which 0 ties",
        "left out: 2",
        "  1 chosen equals rejected: a.jsonl:4",
        "  1 repeated row: a.jsonl:3",
        "contradictions: 0 pairs ordered both ways",
        "circles: 0 prompts, 0 of 2 comparisons",
        "in train and test: 0 prompts, 0 responses",
        "longer response wins: 0.500 (n=2)",
        "shape: pairs with a prompt (4 rows)",
        "the first rows:",
        "  'q|c'",
        "  'q|dd'",
        "  'p|aaa'",
        "  'p|b'",
    ]


def test_check_warns_of_what_spoils_a_measurement(rlhf: Rlhf) -> None:
    rows = [{"prompt": p, "response_a": "x", "response_b": f"y {p}", "label": "a"} for p in "pq"]
    write("a.jsonl", *rows)
    out = rlhf("data", "check", "a.jsonl").stdout
    assert "first response wins: 1.000 (n=2)\n" in out
    assert "warning: the same place wins every pair: is the label a constant?\n" in out
    assert "in train and test: 0 prompts, 1 responses\n" in out
    said = "warning: 1 of 1 test groups have a response that training has too: {}; a stock answer"
    assert said.format("'x', in 2 groups of train and test together") in out
    write("a.jsonl", pair("p", "x", "a"), pair("q", "b", "x"), pair("r", "x", "w"))
    write("test.jsonl", pair("s", "x", "w"), pair("t", "w", "d"))  # x has 3 + 1 groups, w 1 + 2
    said = "warning: 2 of 2 test groups have a response that training has too: {}; a stock answer"
    assert said.format("2 texts, most often 'x', in 4 groups of train and test together") in (
        rlhf("data", "check", "a.jsonl", "test_source=test.jsonl").stdout
    )
    write("b.jsonl", rows[0])
    assert "warning: no group is held out" in rlhf("data", "check", "b.jsonl").stdout


def test_check_warns_of_text_that_a_template_renders_no_part_of(rlhf: Rlhf) -> None:
    base = chat_base(Path(), "qwen").path
    write("a.jsonl", pair("who is it ?", "ant", "dog"), pair("how is it ?", "ant", "dog"))
    said = (
        "the rows are text, so that the chat template of {} renders none of them, as with TRL; write `as_messages=true`"
    )
    assert f"warning: {said.format(base)}" in rlhf("data", "check", "a.jsonl", "--tokenizer", base).stdout
    out = rlhf("data", "check", "a.jsonl", "as_messages=true", "--tokenizer", base).stdout
    assert "rows are text" not in out
    assert "<turn>" in out


def test_check_fails_where_a_tokenizer_leaves_no_row_to_learn_from(rlhf: Rlhf) -> None:
    base, said = tiny_base(Path()).path, [{"role": "assistant", "content": "ant"}]
    rows = [{"prompt": [{"role": "user", "content": f"who is {n}"}], "completion": said} for n in range(3)]
    write("a.jsonl", *rows)
    result = rlhf("data", "check", "a.jsonl", "--tokenizer", base)
    why = "3 x messages cannot be tokenized: the tokenizer has no chat template"
    assert f"for {base}, left out: {why}" in result.stdout
    assert result.exit_code == 2
    assert f"a.jsonl: with {base} no row is left to learn from (3 messages cannot be tokenized: " in result.stderr
    assert rlhf("data", "check", "a.jsonl").exit_code == 0


def test_check_says_which_faults_of_a_template_leave_rows_out(rlhf: Rlhf) -> None:
    base = chat_base(Path(), "", template="{% for m in messages %}<turn>{{ m.content[:3] }}<end>{% endfor %}").path
    rows = [pair(f"who{' is' * n}", "ant", "bee") for n in range(3)]
    write("a.jsonl", *rows, pair("how", "cat dog", "cat the"))
    result = rlhf("data", "check", "a.jsonl", "as_messages=true", "--tokenizer", base)
    assert result.exit_code == 0
    assert f"for {base}, kept: 6 x content that the chat template does not write whole: a.jsonl:" in result.stdout
    assert f"for {base}, left out: 1 x response equal to another once tokenized: a.jsonl:4" in result.stdout


def test_check_counts_over_long_responses(rlhf: Rlhf) -> None:
    write("a.jsonl", pair("What is it ?", "yes", "yes " * 200), pair("And why ?", "no", "yes"))
    limit = ("--tokenizer", str(POLICY), "--max-length")
    assert "over-long responses: 1 of 4\n" in (out := rlhf("data", "check", "a.jsonl", *limit, "100").stdout)
    assert "warning: the rows are text" not in out  # its template writes no more than what is said
    refused = rlhf("data", "check", "a.jsonl", *limit, "1")
    assert refused.exit_code == 2
    assert "every response is longer than 1 tokens" in refused.stderr


@pytest.mark.parametrize(
    ("row", "format"),
    [
        (pair("p", "a", "b"), "preference"),
        ({"prompt": "p", "response_a": "a", "response_b": "b", "label": "b"}, "comparisons"),
        ({"prompt": "p", "responses": ["a", "b"], "ranking": [1, 0]}, "rankings"),
        ({"prompt": "p", "responses": [{"text": "a", "score": 1}, {"text": "b", "score": 2}]}, "ratings"),
    ],
)
def test_the_format_is_guessed_and_said(row: dict[str, Any], format: str, rlhf: Rlhf) -> None:
    write("a.jsonl", row)
    result = rlhf("data", "check", "a.jsonl")
    assert (result.exit_code, result.stderr) == (0, f"format: {format} (guessed from the columns)\n")
    assert rlhf("data", "check", "a.jsonl", "--format", format).stderr == ""


def test_stats_show_each_quantity(rlhf: Rlhf) -> None:
    write("a.jsonl", *({**row, "topic": "birds"} for row in RATED))
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in rlhf("data", "stats", "a.jsonl").stdout.splitlines()
    ]
    assert ["rating: score", "3", "2", "0.8165", "1", "1.5", "2", "2.5", "3"] in rows
    assert ["birds", "2"] in rows


def test_ratings_become_pairs_with_a_gap(rlhf: Rlhf) -> None:
    write("a.jsonl", *RATED)
    done = rlhf("data", "convert", "a.jsonl", "out.jsonl", "gap=2", "margins=true")
    lost = "3 x rating, 1 x prompt, 1 x response"
    assert (done.exit_code, done.stdout) == (0, f"out.jsonl: 1 rows for the format preference; lost: {lost}\n")
    assert lines("out.jsonl") == [pair("p", "yy", "x") | {"margin": 2.0}]
    assert rlhf("data", "convert", "out.jsonl", "again.csv").exit_code == 0
    with open("again.csv", newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [pair("p", "yy", "x") | {"margin": "2.0"}]


def test_what_a_form_does_not_hold_is_counted(rlhf: Rlhf) -> None:
    write("a.jsonl", {"prompt": "p", "responses": ["x", "y", "z"], "ranks": [1, 1, 2]})
    lost = "; lost: 1 x group of responses judged together, 1 x tie"
    assert (
        rlhf("data", "convert", "a.jsonl", "out.jsonl").stdout == f"out.jsonl: 2 rows for the format preference{lost}\n"
    )
    done = rlhf("data", "convert", "a.jsonl", "r.jsonl", "--to", "rankings")
    assert done.stdout == "r.jsonl: 1 rows for the format rankings\n"
    assert lines("r.jsonl") == [{"prompt": "p", "responses": ["x", "y", "z"], "ranks": [0, 0, 1]}]


def test_rows_keep_their_order_and_what_is_left_out_is_said(rlhf: Rlhf) -> None:
    rows = [pair(prompt, "a", "b") for prompt in "qwertyuiop"]
    write("a.jsonl", *rows, pair("z", "x", "x"))
    done = rlhf("data", "convert", "a.jsonl", "out.jsonl")
    assert done.stdout.splitlines()[1:] == ["left out of a.jsonl: 1 chosen equals rejected"]
    assert lines("out.jsonl") == rows


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (
            "comparisons",
            [{"prompt": "p", "response_a": "x", "response_b": "y", "label": "a", "strength_a_minus_b": 2.0}],
        ),
        ("supervised", [{"prompt": "p", "completion": "x"}]),
        ("labels", [{"prompt": "p", "completion": t, "label": t == "x"} for t in "xy"]),
        ("prompts", [{"prompt": "p"}]),
    ],
)
def test_pairs_are_written_in_every_form(form: str, expected: list[dict[str, Any]], rlhf: Rlhf) -> None:
    write("a.jsonl", pair("p", "x", "y") | {"margin": 2})
    assert rlhf("data", "convert", "a.jsonl", "out.jsonl", "--to", form).exit_code == 0
    assert lines("out.jsonl") == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "none.jsonl"], "none.jsonl: no such file"),
        (["check", "ood.jsonl"], "ood.jsonl: no such file (did you mean odd.jsonl?)"),
        (["check", "odd.jsonl"], "odd.jsonl:1: no format is known by these columns: q; give --format (known: "),
        (["check", "a.jsonl", "--format", "rating"], "unknown data_format 'rating' (did you mean ratings?"),
        (["check", "a.jsonl", "gapp=1"], "data_format.gapp: unknown option (did you mean gap?"),
        (["check", "a.jsonl", "gap=-1"], "data_format.gap: should be greater than or equal to 0, got -1"),
        (["check", "a.jsonl", "columns.promt=q"], "data_format.columns.promt: unknown option (did you mean prompt?"),
        (["check", "a.jsonl", "by=[scor]"], "data_format ratings: by: unknown dimension 'scor' (did you mean score?"),
        (["check", "a.jsonl", "source=odd.jsonl"], "source=odd.jsonl: is FILE itself: name the file in its place"),
        (["check", "a.jsonl", "format=ratings"], "format=ratings: is no option of a format: write --format NAME"),
        (["check", "a.jsonl", "gap"], "'gap': an option is written key=value"),
        (["check", "a.jsonl", "gap=[1"], "'gap=[1': '[1' is not a YAML value"),
        (["check", "a.jsonl", "gap=2020-13-45"], "'2020-13-45' is not a YAML value"),
        (["check", "a.jsonl", "gap=1", "gap.of=2"], "gap.of=2: gap has a value already"),
        (["check", "a.jsonl", "columns.prompt=a", "columns.prompt=b"], "columns.prompt is given twice"),
        (["check", "a.jsonl", "--max-length", "8"], "--max-length needs --tokenizer"),
        (["check", "nan.jsonl"], "nan.jsonl:1: score must be a finite number, found 'nan'"),
        (["stats", "a.jsonl", "dimensions=[scor]"], "a.jsonl:1: has no rating at 'scor' (did you mean score?"),
        (["convert", "a.jsonl", "out.jsonl", "--to", "pair"], "--to: unknown form 'pair' (did you mean pairs?"),
        (["convert", "a.jsonl", "out.tsv"], "out.tsv: unknown file ending '.tsv'"),
        (["convert", "a.jsonl", "a.jsonl"], "a.jsonl: exists already"),
        (["convert", "p.jsonl", "out.jsonl", "--to", "ratings"], "p.jsonl: holds nothing that could be written as"),
    ],
)
def test_a_mistake_is_one_helpful_line(words: list[str], message: str, rlhf: Rlhf) -> None:
    write("a.jsonl", *RATED)
    write("p.jsonl", pair("p", "a", "b"))
    write("odd.jsonl", {"q": 1})
    write("nan.jsonl", {"prompt": "p", "response": "x", "score": float("nan")})
    result = rlhf("data", *words)
    said = [line for line in result.stderr.splitlines() if not line.startswith("format: ")]
    assert result.exit_code == 2
    assert len(said) == 1
    assert message in said[0]
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize("command", ["check", "stats", "convert"])
def test_every_command_has_help(command: str, rlhf: Rlhf) -> None:
    text = rlhf("data", command, "--help").stdout
    assert f"data {command}" in text
    assert "--format" in text
