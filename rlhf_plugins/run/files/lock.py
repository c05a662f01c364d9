"""Keeps a run's folder to one process. The lock is the system's, so it ends with its holder, however that ends."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rlhf_plugins.errors import RunError, RunInUse
from rlhf_plugins.run.files.folder import LOCK

LOOK = 0.05  # seconds within which a process that asks `in_use` returns the lock
_HELD: dict[Path, IO[str]] = {}  # locks of this process, to which the system would grant a second one
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_HELD.clear)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """For the block, no other run may be in the folder, which is made if missing and removed if it stays empty.

    Raises:
        RunInUse: another run is in it.
        RunError: it cannot be written.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}") from error
    acquire(folder)
    try:
        yield
    finally:
        release(folder)
        with suppress(OSError):
            for each in made:
                each.rmdir()


def acquire(folder: Path, again: bool = False) -> None:
    """Locks a folder that exists, until `release` or the end of this process.

    Args:
        folder: the folder of a run.
        again: whether this process may have locked it before.

    Raises:
        RunInUse: another run is in it; the message names its process.
    """
    place = folder.resolve()
    if place in _HELD and _is_there(_HELD[place], place / LOCK):
        if again:
            return
        raise RunInUse(f"{folder} is in use by another run of this process, {os.getpid()}")
    while True:
        file = _opened(place / LOCK)
        if not _locked(file) and not _locked_later(file):
            holder = _holder(file)
            file.close()
            raise RunInUse(f"{folder} is in use by {holder}; wait for its end, or give another output_dir=...")
        if _is_there(file, place / LOCK):  # else its last holder deleted it in between
            break
        file.close()
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    file.flush()
    _HELD[place] = file


def in_use(folder: Path) -> bool:
    """Whether a process is in a run's folder; the lock of one that was killed is free."""
    place = folder.resolve()
    if place in _HELD and _is_there(_HELD[place], place / LOCK):
        return True
    try:
        file = (place / LOCK).open()
    except OSError:
        return False
    with file:
        return not _locked(file, shared=True)


def release(folder: Path) -> None:
    """Unlocks a folder that this process locked; it may have been deleted."""
    if (file := _HELD.pop(folder.resolve(), None)) is not None:
        if _is_there(file, folder / LOCK):
            (folder / LOCK).unlink(missing_ok=True)
        file.close()


def _opened(path: Path) -> IO[str]:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        raise RunError(f"{path.parent} cannot be written: {error.strerror}") from error
    return os.fdopen(handle, "r+")


def _locked_later(file: IO[str]) -> bool:
    """Whether the system gives the lock after a moment, in which a process that only looked has closed its file."""
    time.sleep(LOOK)
    return _locked(file)


def _locked(file: IO[str], shared: bool = False) -> bool:
    """Whether the system gave the lock, which those who only look share; a forked child has no part in it."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is_there(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def process(folder: Path) -> int | None:
    """The process that noted itself in a folder's lock, on this machine; it may have ended. The lock is not tried."""
    if folder.resolve() in _HELD:  # reading the file would end the lock, which a process loses with any close of it
        return os.getpid()
    try:
        noted = json.loads((folder / LOCK).read_text(encoding="utf-8"))
        return int(noted["pid"]) if noted["host"] == socket.gethostname() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _holder(file: IO[str]) -> str:
    try:
        noted = json.loads(file.read())
        return f"process {int(noted['pid'])} on {noted['host']!s:.80}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
