"""Text of anybody's steers no terminal, log or page: what it hides is written out, and what is long is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rlhf_plugins import DataError, Run, RunError, Stage, StageResult, hookimpl
from rlhf_plugins.errors import LONGEST, shown
from rlhf_plugins.recipe.check import load_recipe
from rlhf_plugins.registry.registry import Plugin, Registry
from rlhf_plugins.run.run import run

NASTY = "[red]x[/red]\x1b[2J\u202eevil\x9b1m\r\x00"
WRITTEN = r"[red]x[/red]\x1b[2J\u202eevil\x9b1m\r\x00"


@dataclass(frozen=True)
class Loud(Stage):
    """Raises 5 MB."""

    name: str = "loud"

    def run(self, run: Run) -> StageResult:
        raise ValueError(NASTY + "\ud800" + "y" * 5_000_000)


@pytest.fixture
def rlhf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    from rlhf_plugins.cli.app import app

    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, list(words))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a\tb\nc é 漢 😀", "a\tb\nc é 漢 😀"),
        (NASTY, WRITTEN),
        ("\ud800 \u2028 \u061c \x7f", r"\ud800 \u2028 \u061c \x7f"),
        ("x" * 6000, "x" * 2000 + " ... 2,000 characters ... " + "x" * 2000),
    ],
)
def test_what_is_hidden_is_written_out(text: str, written: str) -> None:
    assert shown(text) == written
    assert str(DataError(text)) == written


@given(st.text(st.characters(exclude_categories=())))
def test_anything_can_be_printed_and_stays_so(text: str) -> None:
    shown(text).encode()
    assert all(letter.isprintable() or letter in "\n\t" or ord(letter) > 127 for letter in shown(text))
    assert shown(shown(text)) == shown(text)


def test_a_long_text_of_many_lines_is_cut() -> None:
    assert len(shown("line\n" * 10**6)) < LONGEST + 100


def test_names_in_data_are_printed_as_they_are(rlhf: Callable[..., Result]) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "topic": NASTY}
    Path("a.jsonl").write_text("".join(json.dumps({**row, "prompt": f"p{i}"}) + "\n" for i in range(30)))
    assert WRITTEN in rlhf("data", "stats", "a.jsonl").stdout
    Path("b.jsonl").write_text(json.dumps({"anything": "p", NASTY: 1}) + "\n")
    refused = rlhf("data", "check", "b.jsonl")
    assert "\x1b" not in refused.stderr
    assert "x1b[2J" in refused.stderr


def test_an_exception_of_a_plugin_is_cut_in_message_status_and_page(write: Callable[..., Path]) -> None:
    plugin = ModuleType("loud")
    plugin.register_stage = hookimpl(lambda: {"loud": Loud})  # type: ignore[attr-defined]
    registry: Any = Registry().admit([])
    import stubs

    for module, name in ((stubs, "stubs"), (plugin, "loud")):
        registry.register(module, Plugin(name, "package", "1"))
    with pytest.raises(RunError, match=r"stage loud failed: ValueError: \[red\]x\[/red\]\\x1b") as caught:
        run(load_recipe(write("base: sandbox\ndata: rows\noutput_dir: out\nstages: [loud]\n"), (), registry))
    assert len(str(caught.value)) < 6000
    assert len(Path("out/status.json").read_text()) < 20_000
