"""pooling is what a pooling must be."""

from __future__ import annotations

from rlhf_plugins.testing import check


def test_the_conformance_kit_finds_no_fault() -> None:
    found = check("pooling", "pooling")
    assert not found, "\n".join(map(str, found))
