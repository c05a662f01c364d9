"""One bad package breaks no command that does not use it, and is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
COMPONENT = """\
from __future__ import annotations
from dataclasses import dataclass
from rlhf_plugins import RewardLoss, hookimpl
@dataclass(frozen=True)
class Odd(RewardLoss):
    option: Undefined = 1
@hookimpl
def register_reward_loss():
    return {"odd": Odd}
"""
COMMAND = """\
from __future__ import annotations
from rlhf_plugins import hookimpl
def odd(word: Undefined) -> None: ...
@hookimpl
def register_commands():
    return {"odd": odd}
"""
PROJECT, COMMANDS = "rlhf_plugins", "rlhf_plugins.commands"
BAD: dict[str, tuple[str, str, str, str]] = {  # group, entry point, module, what is printed
    "a function": (PROJECT, "odd_module:f", "def f(): ...", "is a function, not a module"),
    "a number": (PROJECT, "odd_module:x", "x = 1", "is a int, not a module"),
    "a word": (PROJECT, "odd module!", "", "cannot be imported from 'odd module!'"),
    "ends the process": (PROJECT, "odd_module", "raise SystemExit(0)", "SystemExit: 0"),
    "a base exception": (PROJECT, "odd_module", "class E(BaseException): ...\nraise E('no')", "E: no"),
    "an unreadable option": (PROJECT, "odd_module", COMPONENT, "Undefined"),
    "a command of odd arguments": (
        COMMANDS,
        "odd_module",
        COMMAND,
        "command 'odd' of plugin odd (odd 1.0) is left out",
    ),
    "a command at import": (COMMANDS, "odd_module", "raise SystemExit(3)", "SystemExit: 3"),
}

QUICK = ("ends the process",)


@pytest.fixture
def add(installed: tuple[Path, Path]) -> Callable[[str, str], None]:
    """Installs a package of one module."""

    def put(entry_points: str, module: str) -> None:
        info = installed[0] / "odd-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points)
        (installed[0] / "odd_module.py").write_text(module)

    return put


@pytest.mark.parametrize(
    ("group", "entry", "module", "said"),
    [one if name in QUICK else pytest.param(*one, marks=pytest.mark.slow) for name, one in BAD.items()],
    ids=BAD,
)
def test_a_bad_package_is_named_and_harms_nothing(
    group: str, entry: str, module: str, said: str, add: Callable[..., None], command: Command, tmp_path: Path
) -> None:
    add(f"[{group}]\nodd = {entry}\n", module)
    (tmp_path / "r.yaml").write_text("base: sandbox\ndata: rows\nstages: [make]\n")
    done = [command(*words) for words in (["--help"], ["schema"], ["check", "r.yaml"], ["plugins", "list"])]
    assert [one.returncode for one in done] == [0] * 4
    assert "rows" in str(json.loads(done[1].stdout))
    assert said in "".join(one.stdout + one.stderr for one in done)
    assert not any("Traceback" in one.stderr for one in done)


def test_a_bad_package_can_be_disabled(
    add: Callable[..., None], command: Command, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    add(f"[{COMMANDS}]\nodd = odd_module\n", COMMAND)
    assert command("plugins", "disable", "odd").returncode == 0
    assert "odd" not in command("--help").stderr


@pytest.mark.slow
def test_what_a_plugin_prints_at_import_is_no_output(add: Callable[..., None], command: Command) -> None:
    add(f"[{PROJECT}]\nodd = odd_module\n", "print('hello')")
    done = command("schema")
    assert json.loads(done.stdout)
    assert "hello" in done.stderr


def test_entry_points_that_cannot_be_read_are_left_out(add: Callable[..., None], command: Command) -> None:
    add("[rlhf_plugins]\nno equals sign\n", "")
    done = command("plugins", "list")
    assert done.returncode == 0
    assert "stub_plugin" in done.stdout or "stubs" in done.stdout
    assert "is left out" in done.stderr
