"""Every promise of SECURITY.md has its test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROMISES = re.findall(r"^\| (.+?) \| `(tests/\S+?)::(\w+)` \|$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("promise", "file", "test"), PROMISES, ids=[promise for promise, _, _ in PROMISES])
def test_a_promise_has_its_test(promise: str, file: str, test: str) -> None:
    assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), promise


def test_there_are_promises() -> None:
    assert len(PROMISES) >= 10
