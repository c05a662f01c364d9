"""data_format is what a data_format must be."""

from __future__ import annotations

from rlhf_plugins.testing import check


def test_the_conformance_kit_finds_no_fault() -> None:
    found = check("data_format", "data_format", {"source": "rows.txt"})
    assert not found, "\n".join(map(str, found))
