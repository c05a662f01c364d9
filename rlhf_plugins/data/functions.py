"""Functions that a recipe names by where they are: FILE.py:FUNCTION, or PACKAGE.MODULE:FUNCTION."""

from __future__ import annotations

import ast
import runpy
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field

from rlhf_plugins.contract.on_disk import OnDisk
from rlhf_plugins.errors import RunError, nearest, nearest_path

FunctionPath = Annotated[str, OnDisk(":"), Field(description="FILE.py:FUNCTION, or PACKAGE.MODULE:FUNCTION")]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
UNREADABLE = {"*", "exec", "globals", "locals", "vars"}  # by which a file may have names that it does not spell


def check_path(path: str) -> None:
    """Raises ValueError where it names no function."""
    module, _, function = path.rpartition(":")
    if not module or not function.isidentifier():
        raise ValueError(f"path: {path!r} is neither FILE.py:FUNCTION nor PACKAGE.MODULE:FUNCTION")


def missing(path: str) -> dict[str, str]:
    """The file, where it is not there, or the function, where the file gives nothing its name; no code is run."""
    file, _, name = path.rpartition(":")
    if not file.endswith(".py"):
        return {}
    if not Path(file).is_file():
        beside = nearest_path(file, lambda path: path.suffix == ".py")
        return {"path": f"there is no file {file!r}{beside}"}
    try:
        code = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        return {"path": f"{file} cannot be imported: {type(error).__name__}: {error}"}
    if name in (bound := {found for node in ast.walk(code) for found in _bound(node)}) or bound & UNREADABLE:
        return {}
    functions = (node.name for node in code.body if isinstance(node, FUNCTIONS) and not node.name.startswith("_"))
    return {"path": f"{file} has no function {name!r} {nearest(name, functions)}"}


def _bound(node: ast.AST) -> Iterator[str]:
    """The names that a node of code gives to something, and a word of `UNREADABLE` where it may give any."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.alias):
        yield node.asname or node.name.partition(".")[0]
    elif isinstance(node, ast.Name) and (isinstance(node.ctx, ast.Store) or node.id in UNREADABLE):
        yield node.id


def function_at(path: str, who: str) -> Callable[..., Any]:
    """The function that a path names. Raises RunError, which begins with `who`, where there is none."""
    module, _, name = path.rpartition(":")
    try:
        found = runpy.run_path(module) if module.endswith(".py") else vars(import_module(module))
    except Exception as error:  # its module may raise anything
        raise RunError(f"{who}: {path}: cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(function := found.get(name)):
        functions = (key for key, value in found.items() if callable(value) and not key.startswith("_"))
        raise RunError(f"{who}: {module} has no function {name!r} {nearest(name, functions)}")
    return cast("Callable[..., Any]", function)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the block after so many seconds; not on Windows, and not outside the main thread."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds:g} s; `timeout` allows more")

    before = signal.signal(signal.SIGALRM, ring)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, before)
