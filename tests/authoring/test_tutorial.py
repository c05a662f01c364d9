"""docs/plugins.md does what it says: its files are written and its commands run, from an empty folder on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "plugins.md"
COMMANDS = re.findall(r"^\$ (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
PIP = f'exec "{sys.executable}" -m pip --python "$VIRTUAL_ENV/bin/python" "$@"\n'


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What came of each command, in a fresh virtual environment that sees the packages of this one."""
    pytest.importorskip("hatchling")
    if not hasattr(os, "fork"):
        pytest.skip("the script needs os.fork")
    top = tmp_path_factory.mktemp("tutorial")
    own, empty = top / "venv", top / "empty"
    venv.create(own, symlinks=True)
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(own)}))
    outer = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"
    (purelib / "outer.pth").write_text(f"{outer}\n{ROOT}\n")
    (own / "bin" / "pip").write_text(f"#!/bin/sh\n{PIP}")
    (own / "bin" / "pip").chmod(0o755)
    empty.mkdir()
    off = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "VIRTUAL_ENV": str(own)}
    off |= {"XDG_CONFIG_HOME": str(top / "config"), "PATH": f"{own / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    script = [str(own / "bin" / "python"), str(Path(__file__).with_name("shell.py")), str(PAGE)]
    done = subprocess.run(script, cwd=empty, env=os.environ | off, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=COMMANDS.__getitem__)
def test_a_command_of_the_tutorial_prints_what_the_page_shows(number: int, told: list[dict[str, Any]]) -> None:
    one = told[number]
    assert one["command"] == COMMANDS[number]
    assert one["code"] == one["should"], one["printed"]
    shown = ".*?".join(map(re.escape, one["expected"].strip().split("...")))
    assert re.search(shown, one["printed"], re.DOTALL), f"{one['expected']}\nis not in\n{one['printed']}"


def test_every_block_of_python_is_a_file_that_a_command_uses() -> None:
    fences = re.findall(r"^```(python|yaml|toml)(.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert fences
    assert all(name.strip() for _, name in fences)
