"""The tables of reward models say the report's numbers, in rows that hold one."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from rlhf_plugins.report import reward_table
from rlhf_plugins.report.reward_table import sections
from rlhf_plugins.report.schema import Report, RewardModelReport


def _printed(report: Report, width: int) -> str:
    console = Console(width=width, file=StringIO())
    console.print(reward_table(report))
    return console.file.getvalue()  # type: ignore[attr-defined]


def _cells(report: Report) -> dict[str, dict[str, tuple[str, ...]]]:
    found = sections(report.measured_reward_models)
    return {section.title: {row.label: row.cells for row in section.rows} for section in found}


def test_sections_hold_what_was_measured(rewards: Report) -> None:
    found = _cells(rewards)
    assert [*found] == ["Main measures", "Further measures", "Accuracy by topic", "Main measures, out of distribution"]
    assert found["Main measures"]["latency of a pair (ms)"] == ("12.3", "12.3")
    assert found["Main measures"]["training (s)"] == ("58", "58")
    assert "peak memory of training" not in found["Main measures"]
    assert [*found["Further measures"]] == ["certificate_lower_bound", "accuracy_by_topic_worst", "mine"]
    assert found["Main measures, out of distribution"]["pairs"] == ("-", "300")


def test_annotators_have_their_share_of_the_labels(fields: dict[str, Any]) -> None:
    numbers = {"agreement_by_annotator/ann": 0.75, "agreement_by_annotator_labels/ann": 20.0}
    model = {"accuracy": 0.7, "ece": 0.1, "n": 80}
    fields["reward_models"] = {"a": {**model, "metrics": numbers}, "b": model}
    found = _cells(Report.model_validate(fields))
    assert found["Agreement by annotator"] == {"ann": ("75.0% of 20 labels (25.0%)", "-")}
    assert "Further measures" not in found


def test_a_model_without_numbers_has_no_section() -> None:
    assert sections({"one": RewardModelReport(accuracy=None, ece=None, n=0)}) == []
    assert sections({}) == []


@pytest.mark.parametrize("width", [80, 100])
def test_terminal_table_keeps_every_number_whole(rewards: Report, width: int) -> None:
    printed = _printed(rewards, width)
    assert max(map(len, printed.splitlines())) <= width
    for word in ("plain", "gaussian", "74.2% [70.7, 77.7]", "3.5%", "0.510", "0.810", "560", "65.0%"):
        assert word in printed


def test_terminal_table_is_one_line_a_model(rewards: Report) -> None:
    assert len(_printed(rewards, 100).splitlines()) == 2 + 1 + 2


def test_markup_in_a_name_is_text(fields: dict[str, Any]) -> None:
    fields["reward_models"] = {"[bold]x[/bold]": fields["reward_model"]}
    assert "[bold]x[/bold]" in _printed(Report.model_validate(fields), 120)
