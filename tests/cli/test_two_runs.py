"""Two runs in one folder: the second is refused, and names the process of the first; a lock dies with its holder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.errors import RunError, RunInUse
from rlhf_plugins.run.files import lock
from rlhf_plugins.run.files.folder import LOCK
from rlhf_plugins.run.files.lock import in_use, locked, process

RECIPE = """\
base: sandbox
data: rows
stages:
  - {stage: make, name: first}
  - {stage: make, name: second, flag: flag, stop: wait}
"""
HOLDER = """\
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, getattr(fcntl, sys.argv[2]))
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def waiting(shell: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that waits in its second stage."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "flag").touch()
    process = shell("run", "r.yaml")
    assert process.stdout is not None
    while process.stdout.readline() != "waiting\n":
        assert process.poll() is None
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_second_run_is_refused_until_the_first_is_dead(
    waiting: subprocess.Popen[str], command: Callable[..., Any], tmp_path: Path
) -> None:
    for words in (("r.yaml",), ("--overwrite", "r.yaml"), ("--resume", "r.yaml")):
        done = command("run", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"runs/r is in use by process {waiting.pid} on ")
    assert "runs/r  running" in command("runs", "list").stdout
    waiting.kill()
    waiting.wait()
    assert "runs/r  killed" in command("runs", "list").stdout
    (tmp_path / "flag").unlink()
    assert command("run", "--resume", "r.yaml").returncode == 0
    assert not (tmp_path / "runs/r/.lock").exists()


def test_one_process_has_one_run_in_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "out"):
        with pytest.raises(RunError, match="in use by another run of this process"), locked(tmp_path / "out"):
            pass
        assert (tmp_path / "out").exists()
    assert not (tmp_path / "out").exists()


def test_to_look_who_holds_a_folder_does_not_unlock_it(tmp_path: Path) -> None:
    take = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with locked(tmp_path):
        assert process(tmp_path) == os.getpid()
        done = subprocess.run([sys.executable, "-c", take, str(tmp_path / LOCK)], capture_output=True)
        assert b"BlockingIOError" in done.stderr


@contextmanager
def held(folder: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    """Another process has the lock of a folder."""
    (folder / LOCK).touch()
    words = [sys.executable, "-c", HOLDER, str(folder / LOCK), kind]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield holder
        holder.kill()


def test_a_run_waits_for_a_process_that_only_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(_: float) -> None:
        looker.kill()
        looker.wait()

    with held(tmp_path, "LOCK_SH") as looker:
        monkeypatch.setattr(lock.time, "sleep", ended)
        with locked(tmp_path):
            assert process(tmp_path) == os.getpid()


def test_those_who_look_do_not_see_each_other(tmp_path: Path) -> None:
    with held(tmp_path, "LOCK_SH"):
        assert not in_use(tmp_path)
    with held(tmp_path, "LOCK_EX"):
        assert in_use(tmp_path)
        with pytest.raises(RunInUse, match="is in use by another process"), locked(tmp_path):
            pass
