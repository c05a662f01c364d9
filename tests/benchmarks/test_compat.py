"""`make compat` tries both ends of the ranges that the package declares."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

COMPAT: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "compat.py"))


def test_the_ends_of_a_range() -> None:
    found = COMPAT["ends"](Requirement("trl>=1.16,<1.17"))
    assert (found["oldest"], Requirement(found["newest"])) == ("trl==1.16", Requirement("trl<1.17,>=1.16"))


def test_every_library_has_a_lowest_version_and_every_seam_a_test() -> None:
    assert all(map(COMPAT["ends"], COMPAT["declared"]().values()))
    assert all((COMPAT["ROOT"] / file).is_file() for file in COMPAT["SEAMS"])


def test_an_unknown_library_is_refused(capsys: Any) -> None:
    assert COMPAT["main"](["trll"]) == 2
    assert capsys.readouterr().out == "not declared: trll\n"
