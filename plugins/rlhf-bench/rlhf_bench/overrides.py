"""What of a suite's file is run: the values of its block `quick`, and those of the command line, `a.b=value`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rlhf_plugins import RunError, nearest, with_overrides

Words = dict[str, Any]
PICKED = ("tasks", "algorithms")  # keys under which a list of names selects what is run


def overridden(file: Path, words: Words, quick: bool, overrides: Sequence[str]) -> tuple[Words, frozenset[str]]:
    """The words of a suite with other values, and the names of all its tasks, those that are not run among them.

    Args:
        file: where they were read, which faults name.
        words: the words of the file.
        quick: with the values of its block `quick` in the place of the others.
        overrides: over both, as over a recipe; `tasks=[NAMES]` and `algorithms=[NAMES]` select.

    Raises:
        RunError: the block, a name or an override says what nobody would read.
        RecipeError: an override leads nowhere.
    """
    if quick and not (words.get("quick") and isinstance(words["quick"], dict)):
        raise RunError(f"{file}: has no block `quick` of options, which says what --quick leaves out")
    block = words["quick"] if quick else {}
    lists = {key: block[key] for key in PICKED if isinstance(block.get(key), list)}
    words = {**words, **{key: value for key, value in block.items() if key not in lists}}
    picks = [text for text in overrides if _picks(text)]
    values = [text for text in overrides if not _picks(text)]
    if unread := [text for text in values if text.partition("=")[0].partition(".")[0] == "quick"]:
        raise RunError(f"{unread[0]}: is read by nobody: with --quick, set the option itself, without `quick.`")
    if astray := [f"{text}: {why}" for text in values if (why := _astray(words, text))]:
        raise RunError("\n".join(astray))
    words = with_overrides(words, values)
    every = frozenset(map(str, words["tasks"])) if isinstance(words.get("tasks"), dict) else frozenset()
    words = _picked(file, words, with_overrides(lists, picks))
    if unfelt := [text for text in values if not _has(words, text.partition("=")[0].split("."))]:
        raise RunError("\n".join(f"{text}: sets what is not among the tasks and algorithms to run" for text in unfelt))
    return words, every


def _picks(text: str) -> bool:
    """Whether an override is a list of names, which selects."""
    path, _, written = text.partition("=")
    return path in PICKED and written.lstrip().startswith(("[", "- "))


def _astray(words: Words, text: str) -> str:
    """What is wrong with an override of an option of a task or algorithm that is not there; empty where it is."""
    key, *path = text.partition("=")[0].split(".")
    known = words.get(key)
    if key not in PICKED or len(path) < 2 or not isinstance(known, dict) or path[0] in known:
        return ""
    return f"{key}: unknown {path[0]!r} {nearest(path[0], known)}"


def _picked(file: Path, words: Words, lists: Words) -> Words:
    """A list of names in `quick` or in an override selects among those of the suite."""
    for key, names in lists.items():
        known = words.get(key)
        if isinstance(known, dict):
            if unknown := [str(name) for name in names if name not in list(known)]:
                raise RunError(f"{file}: {key}: unknown {unknown[0]!r} {nearest(unknown[0], known)}")
            words = {**words, key: {name: _within(known[name], names) for name in names}}
    return words


def _has(words: Any, keys: Sequence[str]) -> bool:
    """Whether the task or algorithm of an override is still there, and a task's `against`."""
    for key in keys[:3]:
        if not isinstance(words, dict):
            break
        if key not in words:
            return False
        words = words[key]
    return True


def _within(one: Any, names: Iterable[str]) -> Any:
    """A task without an `against` that is not picked."""
    if not isinstance(one, dict):
        return one
    return {key: value for key, value in one.items() if key != "against" or value in names}
