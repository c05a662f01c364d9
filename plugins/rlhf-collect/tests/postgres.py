"""Starts a PostgreSQL server for tests, on a socket in a folder of its own; it needs the server's programs."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

DEBIAN = "/usr/lib/postgresql"  # where the programs are that nobody has on the PATH


def programs() -> Path | None:
    """The folder of `initdb` and `pg_ctl`."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    return next(iter(sorted(Path(DEBIAN).glob("*/bin"), reverse=True)), None)


def missing() -> str:
    """Why no server can be started; nothing where it can."""
    if programs() is None:
        return "no PostgreSQL server is installed (Debian, Ubuntu: the package postgresql)"
    known = {one.pw_name for one in pwd.getpwall()}
    return "a server does not run as root, and there is no user postgres" if _user() and _user() not in known else ""


@contextmanager
def server() -> Iterator[str]:
    """The address of its database `postgres`; the server ends with the block."""
    found = programs()
    assert found
    with TemporaryDirectory(prefix="pg-") as folder:
        data = f"{folder}/data"
        if user := _user():
            shutil.chown(folder, user)
        _run(found / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
        _run(found / "pg_ctl", "-D", data, "-l", f"{folder}/log", "-o", options, "-w", "start")
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            _run(found / "pg_ctl", "-D", data, "-m", "immediate", "stop")


def _user() -> str | None:
    return "postgres" if os.geteuid() == 0 else None


def _run(*command: Path | str) -> None:
    done = subprocess.run(command, user=_user(), cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
