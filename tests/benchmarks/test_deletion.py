"""`benchmarks/deletion.py` sorts the failures of a tree that lacks files of `components/`."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def deletion(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return runpy.run_path(str(BENCHMARKS / "deletion.py"))


@pytest.mark.parametrize(
    ("file", "test", "error", "expected"),
    [
        ("tests/components/test_kl.py", "test_adapts", "assert False", "of its own"),
        ("tests/registry/test_no_privilege.py", "test_without[kl.py]", "assert False", "of its own"),
        ("tests/run/test_run.py", "test_run", "recipe.yaml:5: unknown kl 'in_reward'", "that ask for it"),
        ("tests/trainers/test_step.py", "test_step", "No module named 'rlhf_plugins.components.kl'", "that ask for it"),
        ("tests/test_docs.py", "test_pages", "assert False", "that list all"),
        ("tests/run/test_run.py", "test_kl", "unknown kl_estimator 'k1'", "fault"),
    ],
)
def test_a_failure_is_sorted(deletion: dict[str, Any], file: str, test: str, error: str, expected: str) -> None:
    assert deletion["sort"](deletion["Failure"](file, test, error), ["kl", "shaping"]) == expected


def test_the_outcome_of_pytest_is_read(deletion: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "found.xml").write_text(
        '<testsuite><testcase classname="a" file="a.py" name="test_b[1]"/><testcase classname="a" file="a.py" name="c">'
        '<failure message="no">text\nE   because</failure><system-err>printed</system-err></testcase>'
        '<testcase classname="" file="d.py" name="d"><error message="no">E   ImportError</error></testcase></testsuite>'
    )
    ran, count, failed = deletion["outcome"](tmp_path / "found.xml")
    unread = "a file that cannot be imported"
    assert (ran, count) == ({"a.py::test_b", "a.py::c", f"d.py::{unread}"}, 3)
    assert [tuple(each) for each in failed] == [
        ("a.py", "c", "no\nE   because\n\nprinted"),
        ("d.py", unread, "no\nE   ImportError\n\n"),
    ]


def test_an_unknown_file_is_refused(deletion: dict[str, Any], capsys: Any) -> None:
    assert deletion["main"](["shapng"]) == 2
    assert capsys.readouterr().out.startswith("no file of rlhf_plugins/components: shapng; the files are ")
