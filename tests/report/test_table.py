"""The table says the report's numbers, in the promised columns, wherever it is printed."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from rlhf_plugins.report import rich_table, task_tables, words
from rlhf_plugins.report.schema import Report
from rlhf_plugins.report.table import cells, columns, headers


def _printed(report: Report, width: int) -> str:
    console = Console(width=width, file=StringIO())
    console.print(rich_table(report))
    return console.file.getvalue()  # type: ignore[attr-defined]


def _row(report: Report, policy: str) -> str:
    return " | ".join(
        f"{cell.main} {cell.interval}".rstrip() for cell in cells(report.policies[policy], columns(report))
    )


def test_rows_are_the_worked_numbers(report: Report) -> None:
    first = ["policy", "gold reward (mean, 95% CI)", "score 0-100", "KL to sft", "win rate vs sft"]
    assert headers(report) == [*first, "length", "seconds", "peak memory"]
    # 30 + 10 * 0.45 = 34.5 tokens; 100 * (0.68 - 0.45) / (0.85 - 0.45) = 57.5
    assert _row(report, "sft") == "0.450 [0.430, 0.470] | 0.0 | 0.00 | - | 34.5 | 41 | 900 MiB"
    assert _row(report, "dpo") == "0.680 [0.660, 0.700] | 57.5 | 6.20 | 81.0% [76.0, 86.0] | 36.8 | 73 | 900 MiB"


def test_a_score_from_0_to_100_is_shown_where_it_is_known(fields: dict[str, Any]) -> None:
    policies = {name: policy | {"normalised": None} for name, policy in fields["policies"].items()}
    own = Report.model_validate(fields | {"policies": policies})
    assert "score 0-100" not in headers(own)
    assert "score 0-100" not in _printed(own, 100).replace("\n", " ")


def test_what_does_not_exist_is_a_dash(fields: dict[str, Any]) -> None:
    bare = {
        "gold": {"mean": None, "low": None, "high": None},
        "n": 0,
        "length": None,
        "distinct_1": None,
        "distinct_2": None,
    }
    fields |= {"policies": {"a": bare}, "reference": None}
    assert _row(Report.model_validate(fields), "a") == "- | - | - | - | - | -"


@pytest.mark.parametrize("width", [80, 100, 120])
def test_terminal_table_keeps_every_number_whole(report: Report, width: int) -> None:
    printed = _printed(report, width)
    assert max(map(len, printed.splitlines())) <= width
    for word in (
        "[0.690,0.730]",
        "86.0%",
        "[81.0,91.0]",
        "128",
        "900 MiB",
        "best_of_16",
        "seconds",
    ):
        assert word in printed


def test_a_long_name_of_the_reference_is_not_in_the_header(fields: dict[str, Any]) -> None:
    name = "x" * 30
    policies = {**fields["policies"], name: fields["policies"]["sft"]}
    long = Report.model_validate(fields | {"policies": policies, "reference": name})
    assert headers(long)[3] == "KL to reference"


def test_terminal_table_is_one_line_a_policy_at_100_columns(report: Report) -> None:
    assert len(_printed(report, 100).splitlines()) == 2 + 1 + 5


def test_markup_in_a_name_is_text(fields: dict[str, Any]) -> None:
    fields["policies"]["[bold]x[/bold]"] = fields["policies"].pop("dpo")
    assert "[bold]x[/bold]" in _printed(Report.model_validate(fields), 120)


def test_score_of_a_reward_model_is_called_so(fields: dict[str, Any]) -> None:
    own = Report.model_validate(fields | {"score_name": "reward model score"})
    assert headers(own)[1] == "reward model score (mean, 95% CI)"


@pytest.mark.parametrize("title", ["Tasks", "Parts of the reward"])
def test_tasks_and_parts_have_a_table_of_their_own(fields: dict[str, Any], title: str) -> None:
    row = {"task": "violations", "policy": "grpo", "rows": 2, "share": "100.0% [34.2, 100.0]"}
    evaluate = fields["stages"][-1] | {"sections": [{"title": title, "rows": [row]}]}
    (table,) = task_tables(Report.model_validate(fields | {"stages": [evaluate]}))
    console = Console(width=80, file=StringIO())
    console.print(table)
    (*_, last) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert last.split() == ["violations", "grpo", "2", "100.0%", "[34.2,", "100.0]"]


def test_words() -> None:
    opened = ("dpo.policies.dpo", "a/b.rewards.c", "sft.base", "x")
    assert [words.handed(one) for one in opened] == ["policy dpo", "reward model c of a/b", "base of sft", "x"]
    assert words.number(-0.0001) == "0.000"
    assert words.memory(2**30 - 1) == "1024 MiB"
    assert words.memory(3 * 2**29) == "1.5 GiB"
    assert [words.seconds(value) for value in (0.04, 9.94, 10.0, 128.4)] == ["0.0", "9.9", "10", "128"]
    spans = (None, 0.4, 60.0, 185.2, 3600, 8040)
    assert [words.duration(value) for value in spans] == [
        "-",
        "0.4 s",
        "1 min 0 s",
        "3 min 5 s",
        "1 h 0 min",
        "2 h 14 min",
    ]
    assert words.elapsed(timedelta(seconds=-1)) == "0.0 s"
    assert [words.p_value(value) for value in (None, 0.0004, 0.001, 0.0416)] == ["-", "< 0.001", "0.001", "0.042"]
    assert [words.count(value) for value in (None, 0, 1234.6)] == ["-", "-", "1,235"]
    assert [words.flops(value) for value in (None, 0.0, 3.2e12)] == ["-", "-", "3.20e12"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((None, True, False, "a", ["é"]), ["-", "yes", "no", "a", '["é"]']),
        ((1234, 1234.0, -2.0, 1.0, 0.0), ["1,234", "1,234", "-2", "1.000", "0.000"]),
        ((0.5, -2.5, 0.001, 0.0004, 1e6, 1234567.5), ["0.500", "-2.500", "0.001", "0.0004", "1e+06", "1.23e+06"]),
    ],
)
def test_a_value_whose_column_is_not_known_before(values: tuple[object, ...], said: list[str]) -> None:
    assert [words.cell(value) for value in values] == said
