"""What the README of a package in `plugins/` shows can be typed in a clone: commands, options, files and folders."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from rlhf_plugins.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("plugins/*/README.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python|rlhf) [^`]*)`")


def shown(page: Path) -> Iterator[list[str]]:
    """The words of each command line, in blocks without a language and within sentences."""
    text = page.read_text(encoding="utf-8")
    blocks = [block for language, block in BLOCK.findall(text) if language in ("", "bash")]
    for line in (*"".join(blocks).splitlines(), *INLINE.findall(BLOCK.sub("", text))):
        if words := shlex.split(re.sub(r"\s# .*", "", line)):
            yield words


def options_of(words: list[str]) -> set[str]:
    """The options that a command of ours takes, by the words that begin with its name."""
    command: Any = get_command(app)
    found = {option for each in command.params for option in each.opts}
    for word in words:
        inner = getattr(command, "commands", {})
        assert word in inner or word != words[0], f"no command {word!r}"
        if word not in inner:  # an argument
            break
        command = inner[word]
    return found | {option for each in command.params for option in (*each.opts, *each.secondary_opts)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_what_a_package_shows_can_be_typed(page: Path) -> None:
    for program, *words in shown(page):
        if program == "pip":
            assert all((ROOT / word / "pyproject.toml").is_file() for word in words if word != "install"), words
        files = [word for word in words if word.endswith((".py", ".yaml")) and not word.isupper()]
        assert all((ROOT / file).is_file() for file in files), files
        if program == "rlhf":
            given = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert given <= options_of(words), words
