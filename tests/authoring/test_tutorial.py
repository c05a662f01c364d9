"""docs/plugins.md does what it says: its files are written and its commands run, from an empty folder on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from warm import Warm

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "plugins.md"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # of the fixture, which runs every command of the page
COMMANDS = re.findall(r"^\$ (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MODULES = {"rlhf": "rlhf_plugins.cli", "pytest": "pytest"}
PIP = f'exec "{sys.executable}" -m pip --python "$VIRTUAL_ENV/bin/python" "$@"\n'


@pytest.fixture(scope="module")
def transcript(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What came of each command, in a fresh virtual environment that sees the packages of this one."""
    pytest.importorskip("hatchling")
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
    shell = Shell(Warm(own / "bin" / "python"), empty, os.environ | off)
    made = list(shell.follow(PAGE.read_text(encoding="utf-8")))
    shell.warm.close()
    return made


@dataclass
class Shell:
    """Does what a page of docs says, block by block.

    A block whose fence names a file is written to it, or added to its end after a `+`. Of a `console` block every line
    that begins with `$ ` is a command, and what follows is what it should print.
    """

    warm: Warm
    folder: Path
    environment: dict[str, str]

    def follow(self, text: str) -> Iterator[dict[str, Any]]:
        """What came of each command."""
        for language, word, block in BLOCK.findall(text):
            if language == "console":
                for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                    command, _, expected = part.partition("\n")
                    code, printed = self._done(command)
                    yield {
                        "command": command,
                        "expected": expected,
                        "code": code,
                        "printed": printed,
                        "should": int(word or 0),
                    }
            elif word:
                file = self.folder / word.removeprefix("+")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text((file.read_text() if word.startswith("+") else "") + block)

    def _done(self, command: str) -> tuple[int, str]:
        """The exit code and all that is printed."""
        first, *words = command.replace("'", "").split(" ")
        if first == "cd":
            self.folder = self.folder / words[0]
            return 0, ""
        if first == "python":
            done = self.warm(*words, cwd=self.folder)
        elif first in MODULES:
            done = self.warm("-m", MODULES[first], *words, cwd=self.folder, env=self.environment)
        else:
            done = subprocess.run(
                command, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True
            )
        return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=COMMANDS.__getitem__)
def test_a_command_of_the_tutorial_prints_what_the_page_shows(number: int, transcript: list[dict[str, Any]]) -> None:
    one = transcript[number]
    assert one["command"] == COMMANDS[number]
    assert one["code"] == one["should"], one["printed"]
    shown = ".*?".join(map(re.escape, one["expected"].strip().split("...")))
    assert re.search(shown, one["printed"], re.DOTALL), f"{one['expected']}\nis not in\n{one['printed']}"


def test_every_block_of_python_is_a_file_that_a_command_uses() -> None:
    fences = re.findall(r"^```(python|yaml|toml)(.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert fences
    assert all(name.strip() for _, name in fences)
