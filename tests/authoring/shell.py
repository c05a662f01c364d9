"""A script: does what a page of docs says, block by block, and prints a line of JSON for each command.

A block whose fence names a file is written to it, or added to its end after a `+`. Of a `console` block every line that
begins with `$ ` is a command, and what follows is what it should print. `rlhf` and `pytest` run in forks of this
process, which has imported what takes seconds; all other commands run in the shell.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import site
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import trl  # noqa: F401  # what takes seconds to import
from trl import DPOConfig, GRPOConfig, RewardConfig, SFTConfig  # noqa: F401

BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MODULES = {"rlhf": "rlhf_plugins.cli", "pytest": "pytest"}


def main(page: Path) -> None:
    """In the working directory, which should be empty."""
    for language, word, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "console":
            for command, expected in commands(text):
                code, printed = done(command)
                told = {"command": command, "expected": expected, "code": code, "printed": printed}
                print(json.dumps({**told, "should": int(word or 0)}), flush=True)
        elif word:
            file = Path(word.removeprefix("+"))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text((file.read_text() if word.startswith("+") else "") + text)


def commands(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a block, each with what should come."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected


def done(command: str) -> tuple[int, str]:
    """The exit code and all that is printed."""
    first, *words = command.replace("'", "").split(" ")
    if first == "cd":
        os.chdir(words[0])
        return 0, ""
    if first in MODULES:
        return forked(MODULES[first], words)
    made = subprocess.run(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return made.returncode, made.stdout


def forked(module: str, words: list[str]) -> tuple[int, str]:
    """`python -m module words`, as a new process would find the installed packages."""
    sys.stdout.flush()
    with tempfile.TemporaryFile("w+") as file:
        if child := os.fork():
            _, status = os.waitpid(child, 0)
            file.seek(0)
            return os.waitstatus_to_exitcode(status), file.read()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    site.addsitedir(sysconfig.get_path("purelib"))
    sys.argv = [module, *words]
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__")
    except SystemExit as leaves:
        code = leaves.code
    sys.stdout.flush()
    os._exit(int(code or 0))  # type: ignore[call-overload]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
