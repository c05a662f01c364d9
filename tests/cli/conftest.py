"""Fixtures of the command-line tests: commands in this process, and in one of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner
from warm import Warm

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rlhf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command in a scratch folder."""
    from rlhf_plugins.cli.app import app

    monkeypatch.chdir(tmp_path)
    return lambda *words, **options: CliRunner().invoke(app, list(words), **options)


@pytest.fixture
def installed(tmp_path: Path) -> tuple[Path, Path]:
    """Folders for PYTHONPATH: the stubs, installed as a third-party package, and ours."""
    stubs = (ROOT / "tests/stubs.py").read_text(encoding="utf-8")
    site = tmp_path / "site"
    info = site / "stub_package-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "stub_plugin.py").write_text(stubs, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stub-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rlhf_plugins]\nstubs = stub_plugin\n")
    return site, ROOT


@pytest.fixture
def command(python: Warm, installed: tuple[Path, Path], tmp_path: Path) -> Callable[..., Any]:
    """Does a command to its end, with the stubs installed."""
    return lambda *words: python("-m", "rlhf_plugins.cli", *words, cwd=tmp_path, path=installed)


@pytest.fixture
def shell(installed: tuple[Path, Path], tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a command in a new process, with the stubs installed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, installed))}

    def start(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "rlhf_plugins.cli", *words]
        pipe = subprocess.PIPE
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child inherits that it is ignored
        try:
            return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True)
        finally:
            signal.signal(signal.SIGINT, before)

    return start
