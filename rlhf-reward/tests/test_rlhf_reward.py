"""reward is what a reward must be."""

from __future__ import annotations

from rlhf_plugins.testing import check


def test_the_conformance_kit_finds_no_fault() -> None:
    found = check("reward", "reward")
    assert not found, "\n".join(map(str, found))
