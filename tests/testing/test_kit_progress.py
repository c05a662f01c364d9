"""The kit says what it tries next, and starts no process again for an import that no busy machine explains."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_plugins.cli.plugins_check import _announced
from rlhf_plugins.registry.registry import registry
from rlhf_plugins.testing import Subject, imports, properties_of


def test_a_line_comes_before_the_properties_of_each_file(capsys: pytest.CaptureFixture[str]) -> None:
    subject = Subject("reward_loss", "bradley_terry", registry().get("reward_loss", "bradley_terry"), {}, registry())
    tried = properties_of("reward_loss")
    walk = _announced(subject, tried)
    next(walk)
    assert capsys.readouterr().err.startswith("reward_loss bradley_terry: options, ")
    assert [*walk] == tried[1:]
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("reward_loss bradley_terry: gradients, ") for line in lines)
    assert len(lines) == len({one.holds.__module__ for one in tried}) - 1


@pytest.mark.parametrize(("first", "runs", "kept"), [(0.1, 1, 0.1), (0.5, 2, 0.15), (12.5, 1, 12.5)])
def test_only_what_is_a_little_too_slow_is_imported_again(
    first: float, runs: int, kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [first, 0.15]

    def run(modules: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        return {name: {"seconds": seconds.pop(0), "fault": None, "changed": []} for name in modules}

    monkeypatch.setattr(imports, "_run", run)
    found = imports.imported((f"module_{first}",))
    assert found[f"module_{first}"]["seconds"] == kept
    assert len(seconds) == 2 - runs
