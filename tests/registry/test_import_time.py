"""A plugin is named for the time that its own import takes, not for that of the libraries that we import too."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_plugins.registry import discovery, import_time
from rlhf_plugins.registry.discovery import in_file

WAITS = "import time\ntime.sleep(0.6)\n"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(discovery, "SLOW", 0.3)
    monkeypatch.setattr(import_time, "TICK", 0.02)
    monkeypatch.syspath_prepend(str(tmp_path))


def said(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What loading a plugin of this text prints."""
    plugin = folder / "slow_plugin.py"
    plugin.write_text(text)
    in_file(plugin).load()
    return capsys.readouterr().err


def test_a_plugin_that_takes_long_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(tmp_path, WAITS, capsys)
    assert found.startswith("plugin slow_plugin.py (file sha256:")
    assert found.endswith("; `rlhf plugins disable slow_plugin.py` leaves it out\n")


@pytest.mark.parametrize(("library", "named"), [("heavy_of_ours", False), ("heavy_of_its_own", True)])
def test_only_its_own_libraries_count(
    library: str, named: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_time, "_libraries", lambda: frozenset({"heavy_of_ours"}))
    (tmp_path / f"{library}.py").write_text("import behind_" + library)  # a part of it, which takes the time
    (tmp_path / f"behind_{library}.py").write_text(WAITS)
    assert ("has been importing" in said(tmp_path, f"import {library}\n", capsys)) is named


def test_the_libraries_are_those_that_we_require() -> None:
    assert {"torch", "transformers", "trl", "rlhf_plugins"} <= import_time._libraries()
    assert not {"time", "importlib"} & import_time._libraries()
