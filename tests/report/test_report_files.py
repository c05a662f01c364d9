"""Writing and reading a run's report, and what is said when its folder or its file is broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlhf_plugins.errors import RunError
from rlhf_plugins.report import hardware, read, versions, write
from rlhf_plugins.report.schema import Report


def test_a_written_report_reads_back_equal(tmp_path: Path, report: Report) -> None:
    path = write(tmp_path / "runs" / "first", report)
    assert path == tmp_path / "runs" / "first" / "report.html"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert read(path.parent) == report
    assert sorted(file.name for file in path.parent.iterdir()) == ["report.html", "report.json"]


def test_writing_again_replaces(tmp_path: Path, rewards: Report) -> None:
    write(tmp_path, rewards)
    write(tmp_path, rewards.model_copy(update={"title": "Second"}))
    assert read(tmp_path).title == "Second"


def test_no_report_is_a_run_error_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"report\.json: there is no report in this folder"):
        read(tmp_path)


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"title": 3}'])
def test_a_broken_report_names_its_file(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / "report.json").write_bytes(broken)
    with pytest.raises(RunError, match=r"report\.json: "):
        read(tmp_path)


def test_a_wrong_field_is_named_by_its_path(tmp_path: Path, report: Report) -> None:
    broken = report.model_dump_json().replace('"kl":6.2', '"kl":"far"')
    (tmp_path / "report.json").write_text(broken)
    with pytest.raises(RunError, match=r"report\.json: policies\.dpo\.kl: .*valid number"):
        read(tmp_path)


def test_a_folder_that_is_a_file_is_a_run_error(tmp_path: Path, report: Report) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match=r"report\.json: cannot be written"):
        write(tmp_path / "run", report)


def test_a_file_that_cannot_be_replaced_leaves_no_draft(tmp_path: Path, report: Report) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunError, match=r"report\.html: cannot be written"):
        write(tmp_path, report)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_text_that_utf8_cannot_hold_is_a_run_error(tmp_path: Path, fields: dict[str, Any]) -> None:
    fields["recipe"]["note"] = "\ud800"
    with pytest.raises(RunError, match="cannot be written as JSON"):
        write(tmp_path, Report.model_validate(fields))
    assert list(tmp_path.iterdir()) == []


def test_machine_tells_versions_and_hardware() -> None:
    assert versions()["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "pydantic" in versions()
    machine = hardware(gpu="H200")
    assert machine.memory_bytes == psutil.virtual_memory().total
    assert 1 <= machine.cores <= (psutil.cpu_count() or 1)
    assert machine.gpu == "H200"


def test_reading_needs_neither_torch_nor_matplotlib() -> None:
    code = "import sys, rlhf_plugins.report; print({'torch', 'matplotlib', 'jinja2'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"
