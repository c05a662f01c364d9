"""Threads of a training sleep while they wait, so that neighbours on the machine do not slow it down many times."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rlhf_plugins.cli.threads import WAITING, wait_asleep

CODE = """
import os, sys
from rlhf_plugins.cli import main
sys.argv = ["rlhf", "--version"]
try:
    main()
finally:
    print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules)
"""


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that says nothing of waiting, put back afterwards."""
    for name in WAITING:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_the_command_line_says_so_before_torch_is_loaded(bare: None) -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "PASSIVE False"


def test_the_environment_goes_first(bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_asleep()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in os.environ
