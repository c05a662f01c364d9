"""Marks of parametrized tests."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*cases: Any) -> list[Any]:
    """Cases that `make bench` alone tries, for which those beside them answer in `make test`; a tuple is one case."""
    marks = pytest.mark.slow
    return [
        pytest.param(*case, marks=marks) if isinstance(case, tuple) else pytest.param(case, marks=marks)
        for case in cases
    ]
