"""Functions that a recipe names by where they are: FILE.py:FUNCTION, or PACKAGE.MODULE:FUNCTION."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import runpy
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

from pydantic import Field

from rlhf_plugins.contract.on_disk import OnDisk
from rlhf_plugins.data.turns import as_response
from rlhf_plugins.errors import RlhfError, RunError, nearest, nearest_path

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Samples

FunctionPath = Annotated[str, OnDisk(":"), Field(description="FILE.py:FUNCTION, or PACKAGE.MODULE:FUNCTION")]
logger = logging.getLogger(__name__)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
GIVEN = frozenset({"prompts", "completions", "completion_ids"})  # beside the columns
LOGS = frozenset({"log_extra", "log_metric"})
OF_TRL = LOGS | {"trainer_state"}  # what TRL's trainer gives a reward besides
UNREADABLE = {"*", "exec", "globals", "locals", "vars"}  # by which a file may have names that it does not spell


def check_path(path: str) -> None:
    """Raises ValueError where it names no function."""
    module, _, function = path.rpartition(":")
    if not module or not function.isidentifier():
        raise ValueError(f"path: {path!r} is neither FILE.py:FUNCTION nor PACKAGE.MODULE:FUNCTION")


def missing(path: str, given: frozenset[str] = frozenset()) -> dict[str, str]:
    """The file, where it is not there, or the function, where the file gives nothing its name; no code is run.

    Args:
        path: the path of the function.
        given: what it is given of TRL's arguments.
    """
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
    if unknown := sorted(required(path) & OF_TRL - given):
        return {"path": needs_trl(path, unknown)}
    if name in (bound := {found for node in ast.walk(code) for found in _bound(node)}) or bound & UNREADABLE:
        return {}
    functions = (node.name for node in code.body if isinstance(node, FUNCTIONS) and not node.name.startswith("_"))
    return {"path": f"{file} has no function {name!r} {nearest(name, functions)}"}


def needs_trl(path: str, unknown: Sequence[str]) -> str:
    """Says that a function cannot be called without what TRL's trainer alone gives."""
    return f"{path} needs {', '.join(unknown)}, which TRL's trainer alone gives: give a default, and do without"


def code_of(path: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The code of a function of a file; None of a module's, and of one that is decorated, imported or defined twice."""
    file, _, name = path.rpartition(":")
    try:
        code = ast.parse(Path(file).read_bytes() if file.endswith(".py") else "")
    except (OSError, SyntaxError, ValueError):  # which `missing` says
        return None
    found = [node for node in ast.walk(code) if name in _bound(node)]
    if len(found) != 1 or not isinstance(found[0], FUNCTIONS) or found[0].decorator_list:
        return None
    return found[0]


def required(path: str) -> frozenset[str]:
    """The parameters without a default that a function of a file shows in its code; no code is run."""
    if (code := code_of(path)) is None:
        return frozenset()
    takes = code.args
    plain = [*takes.posonlyargs, *takes.args]
    named = [one for one, default in zip(takes.kwonlyargs, takes.kw_defaults, strict=True) if default is None]
    return frozenset(one.arg for one in (*plain[: len(plain) - len(takes.defaults)], *named))


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


@dataclass(frozen=True)
class OfSamples:
    """The options of a component that is a Python function with the arguments of TRL's `reward_funcs`; its first base.

    It is called with `prompts`, `completions`, `completion_ids` and the prompts' columns, as far as it takes them. An
    `async` one is run to its end.
    """

    gives: ClassVar[frozenset[str]] = frozenset()  # what it is given of these, by `more`
    path: FunctionPath
    timeout: Annotated[float, Field(gt=0, description="seconds for one call; a longer one ends the run")] = 1800.0

    def __post_init__(self) -> None:
        check_path(self.path)

    def missing(self) -> dict[str, str]:
        """The function, where it or its file is not there."""
        return missing(self.path, self.gives)

    def reads_columns(self) -> frozenset[str]:
        """The columns without which it cannot be called, as far as its code shows them."""
        return required(self.path) - GIVEN - OF_TRL

    def more(self, samples: Samples) -> dict[str, Any]:
        """Further arguments of a call."""
        return {}

    def of_samples(self, who: str) -> Callable[[Samples], Any]:
        """The function as one of samples, which raises RunError for what it raises, and where it takes too long.

        Args:
            who: begins its errors, the kind of the component.

        Raises:
            RunError: there is no such function, or its module cannot be imported.
        """
        function = function_at(self.path, who)
        takes = inspect.signature(function).parameters
        if unknown := sorted((OF_TRL - self.gives) & takes.keys()):
            if any(takes[name].default is inspect.Parameter.empty for name in unknown):
                raise RunError(f"{who}: {needs_trl(self.path, unknown)}")
            without = ", ".join(unknown)
            logger.warning("%s: %s is called without %s, which TRL's trainer alone gives", who, self.path, without)
        takes_all = any(one.kind is one.VAR_KEYWORD for one in takes.values())

        def call(samples: Samples) -> Any:
            given = {**samples.columns, **_as_trl(samples), **self.more(samples)}
            with _named(self.path, who), at_most(self.timeout):
                found = function(**{k: v for k, v in given.items() if takes_all or k in takes})
                return asyncio.run(found) if inspect.iscoroutine(found) else found

        return call


def _as_trl(samples: Samples) -> dict[str, Any]:
    """The arguments of TRL's reward functions."""
    completions = list(map(as_response, samples.prompts, samples.responses))
    ids = [list(response) for response in samples.response_ids]
    return {"prompts": list(samples.prompts), "completions": completions, "completion_ids": ids}


@contextmanager
def _named(path: str, who: str) -> Iterator[None]:
    """Raises RunError in the name of a user's function, with the line of its file, for what it raises in the block."""
    from torch import OutOfMemoryError

    try:
        yield
    except (RlhfError, OutOfMemoryError):
        raise
    except Exception as error:  # a user's function may raise anything
        own = [each.lineno for each in extract_tb(error.__traceback__) if each.filename == path.rpartition(":")[0]]
        where = f" in line {own[-1]}" if own else ""
        raise RunError(f"{who}: {path} failed{where}: {type(error).__name__}: {error}") from error


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
