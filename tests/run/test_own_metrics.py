"""The metrics of a stage's result: what JSON holds is kept, anything else is refused with its place."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from rlhf_plugins import PluginError, Run, Stage, StageResult, session
from rlhf_plugins.run.stage.own_metrics import plain_metrics, without_number
from rlhf_plugins.testing import tiny_base, tiny_run


def test_arrays_become_lists_and_numbers() -> None:
    given = {"a": torch.tensor(1.5), "b": [np.float32(0.5), (1, True)], "c": {"d": np.arange(2), "e": None, "f": "x"}}
    assert plain_metrics("s", given) == {"a": 1.5, "b": [0.5, [1, True]], "c": {"d": [0, 1], "e": None, "f": "x"}}


@pytest.mark.parametrize(
    ("value", "words"),
    [({1, 2}, "'z' as a set"), ({"y": [0, b"x"]}, r"'z\.y\[1\]' as a bytes"), (np.float32, "'z' as a type")],
)
def test_what_is_no_metric_is_refused_with_its_place(value: Any, words: str) -> None:
    with pytest.raises(PluginError, match=f"stage s of plugin p returned the metric {words}"):
        plain_metrics("stage s of plugin p", {"z": value})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({(1, 2): 3}, r"metrics with the key \(1, 2\), a tuple"),
        ({"a": [{"b": {1: 2.0}}]}, r"the metric 'a\[0\]\.b' with the key 1, a int"),
        ({"a": {None: 1}}, "the metric 'a' with the key None, a NoneType"),
    ],
)
def test_a_key_that_is_no_text_is_refused_with_its_place(given: Any, words: str) -> None:
    """JSON has no tuples for keys, and would read 1 back as "1"."""
    with pytest.raises(PluginError, match=f"stage s of plugin p returned {words}: write it as text"):
        plain_metrics("stage s of plugin p", given)


def test_metrics_are_a_mapping() -> None:
    with pytest.raises(PluginError, match="returned metrics that are a list, not a mapping"):
        plain_metrics("stage s", [1.0])


def test_the_places_without_a_number() -> None:
    (said,) = without_number({"a": nan, "b": {"c": [1, inf, True], "d": "nan"}, "e": None})
    assert said == "Metrics that are NaN or infinite, and null in its result: a, b.c[1]."
    assert without_number({"a": 0.5}) == []


@dataclass(frozen=True)
class Measuring(Stage):
    """Returns a metric that is NaN, or a set."""

    of: Literal["nan", "set"]
    name: str = "measuring"

    def run(self, run: Run) -> StageResult:
        return StageResult(metrics={"y": 1.0, "x": nan} if self.of == "nan" else {"z": {1, 2}})


def test_a_metric_that_is_nan_is_null_and_the_report_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = tiny_base(tmp_path / "base")
    run = session(base, tiny_run(base, tmp_path / "rows").data, tmp_path / "run")
    with caplog.at_level(logging.WARNING, "rlhf_plugins"):
        made = run.train(Measuring("nan"), name="part")
    said = "Metrics that are NaN or infinite, and null in its result: x."
    assert made.metrics == {"x": None, "y": 1.0}
    assert said in made.report.notes
    assert f"part: {said}" in caplog.messages


def test_a_run_refuses_a_set_and_names_the_stage(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    run = session(base, tiny_run(base, tmp_path / "rows").data, tmp_path / "run")
    with pytest.raises(PluginError, match="stage Measuring returned the metric 'z' as a set"):
        run.train(Measuring("set"), name="part")
