"""The exceptions that a user can act on.

RlhfError
├── RecipeError     a recipe cannot be run as written
├── DataError       rows cannot be read as preferences
│   └── AllEqualError   every response has the advantage 0
├── NotLookedAtError  a check of a recipe leaves something unread
├── PluginError     a plugin or component is broken, unknown or registered twice
│   └── ComponentError  a component failed, or gave a result that its kind does not allow
├── RewardUnavailable  a reward cannot answer now, and may later
├── RunError        a run or its folder is not in the state that was asked for
│   ├── RunInUse        another run is in the folder
│   └── ReportError     a report cannot be written; the run is as it was
└── StopRun         a hook of a plugin ends the run
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any


class RlhfError(Exception):
    """Everything this package raises on purpose; the command line prints it without a traceback."""

    def __init__(self, *said: object) -> None:
        super().__init__(*(shown(one) if isinstance(one, str) else one for one in said))


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong in a recipe, and where: printed as `file:line: path: what is wrong`."""

    file: str
    line: int  # 0 in a recipe that is a mapping, which has paths only
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        return f"{where}{self.path}: {self.message}" if self.path else where + self.message


class RecipeError(RlhfError):
    """A recipe cannot be run as written; `faults` holds every fault found, in file order."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = sorted(set(faults))
        super().__init__("\n".join(map(str, self.faults)))


class DataError(RlhfError):
    """Rows cannot be read as preferences; the message names the file and, where there is one, the row."""


class AllEqualError(DataError):
    """Every response has the advantage 0."""


class NotLookedAtError(RlhfError):
    """What a check of a recipe leaves unread; the message names it and says why."""


class PluginError(RlhfError):
    """A plugin or component is broken, unknown or registered twice; the message names both sides."""


class ComponentError(PluginError):
    """A component failed, or gave a result that its kind does not allow; `call` holds the call with its inputs."""

    def __init__(self, message: str, call: Any) -> None:
        self.call = call
        super().__init__(message)


class RewardUnavailable(RlhfError):
    """A reward cannot answer now, such as a server that is busy; whoever asked it tries again.

    Args:
        message: why.
        retry_after: seconds after which it may answer; None is unknown.
    """

    def __init__(self, message: str = "the reward is unavailable", retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class RunError(RlhfError):
    """A run or its folder is not in the state that was asked for."""


class RunInUse(RunError):
    """Another run is in the folder, of this process or of another one."""


class ReportError(RunError):
    """A report cannot be written; the run is as it was, and `rlhf report` writes it later."""


class StopRun(RlhfError):
    """A hook of a plugin ends the run; its finished stages are kept, and it can be resumed."""


# C0 but for tab and newline, C1, marks of direction, separators of lines, halves of characters, and U+FEFF.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
LONGEST_LINE, LONGEST = 4_000, 200_000  # characters that are shown


def shown(text: str) -> str:
    """Text as a terminal, a log and a page may hold it: nothing hidden, long lines without their middle."""
    if len(text) > LONGEST_LINE:
        text = "\n".join(_cut(line, LONGEST_LINE) for line in _cut(text, LONGEST).split("\n"))
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def _cut(text: str, most: int) -> str:
    left_out = len(text) - most
    half = most // 2
    return text if left_out <= 0 else f"{text[:half]} ... {left_out:,} characters ... {text[-half:]}"


def nearest(name: object, names: Iterable[object]) -> str:
    """The end of an "unknown X" message: the nearest known name, if one is near, and all known names."""
    choices = sorted(map(str, names))
    near = get_close_matches(str(name), choices, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"({hint}known: {', '.join(choices) or 'none'})"


def nearest_path(path: str | Path, wanted: Callable[[Path], bool] = Path.exists) -> str:
    """The end of a "no such file" message: what is beside the path and has the nearest name; empty if none is near.

    Args:
        path: where there is nothing.
        wanted: whether a path beside it may be meant, such as `Path.is_dir`.
    """
    folder, name = Path(path).parent, Path(path).name
    beside = [each.name for each in filter(wanted, folder.iterdir())] if folder.is_dir() else []
    near = get_close_matches(name, beside, n=1)
    return f" (did you mean {folder / near[0]}?)" if near else ""
