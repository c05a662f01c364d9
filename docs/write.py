"""Writes the pages that are made of the code: docs/components/, one a kind, and docs/api.md. `make docs` runs it.

It knows how a page looks; all that a page says stands in the docstrings and fields of what it describes.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rlhf_plugins
from rlhf_plugins.contract import hookspecs, interfaces, rollout
from rlhf_plugins.recipe.options import Option, options
from rlhf_plugins.registry.registry import DISTRIBUTION, KINDS, Registered, registry

DOCS = Path(__file__).parent
NOTE = "<!-- Made of the code by `make docs`: change the docstrings, not this file. -->"
FIELD = re.compile(r"    \w+: ")
FOREIGN = {"hookimpl": "Marks a function of a plugin's module as a hook; pluggy's `HookimplMarker`, with its options."}
OUR_FRONT = "What a plugin and a script may import from `rlhf_plugins`; all else may change without notice."


def pages() -> dict[Path, str]:
    """Every page, by its file."""
    found = {DOCS / "components" / f"{kind}.md": _kind(kind) for kind in KINDS}
    return {**found, DOCS / "components" / "README.md": _index(), DOCS / "api.md": _api()}


def _index() -> str:
    rows = (f"| [`{kind}`]({kind}.md) | {_hook(kind)} | {_names(kind)} |" for kind in KINDS)
    table = ["| kind | | bundled |", "|---|---|---|", *rows]
    return _page("Components", "Each kind has a hook, `register_<kind>`, and a page.", "\n".join(table))


def _kind(kind: str) -> str:
    protocol = _protocol(kind)
    contract = [f"{_hook(kind)} Hook: `register_{kind}`.", "", _doc(protocol), *_calls(protocol)]
    return _page(kind, "\n".join(contract), *(_component(one) for one in _bundled(kind)))


def _component(one: Registered) -> str:
    cls = one.cls
    source = f"Source: `{cls.__module__.replace('.', '/')}.py`, `{cls.__name__}`."
    return "\n".join([f"## `{one.name}`", "", _doc(cls), *_calls(cls), "", *_options(cls), source])


def _options(cls: type) -> list[str]:
    found = options(cls).values()
    rows = [f"| `{one.name}` | {_cell(one.shown_type)} | {_default(one)} | {_cell(one.description)} |" for one in found]
    return ["| option | type | default | |", "|---|---|---|---|", *rows, ""] if rows else ["No options.", ""]


def _default(one: Option) -> str:
    return "required" if one.required else f"`{_cell(str(one.default))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _calls(cls: type) -> list[str]:
    """What is called of a component: its signature with the shapes beside it, and what it says."""
    found = []
    for name in ("__call__", "build", "load", "run"):
        if function := vars(cls).get(name):
            found += [
                "",
                "```python",
                _signature(function),
                "```",
                *([f"\n{_doc(function)}"] if function.__doc__ else []),
            ]
    return found


def _signature(function: Any) -> str:
    """The lines of `def`, with a comment on the last."""
    lines = inspect.getsource(function).splitlines()
    lines = lines[next(number for number, line in enumerate(lines) if line.lstrip().startswith("def ")) :]
    last = next(number for number, line in enumerate(lines) if re.search(r":(  #.*)?$", line))
    return "\n".join(line.removeprefix("    ") for line in lines[: last + 1])


def _protocol(kind: str) -> type:
    hook = getattr(hookspecs, f"register_{kind}")
    name = re.search(r"type\[(?:\w+\.)?(\w+)\]", str(hook.__annotations__["return"]))
    assert name, f"register_{kind} says of no protocol that it returns classes of it"
    found: type = getattr(interfaces, name[1], None) or getattr(rollout, name[1])
    return found


def _hook(kind: str) -> str:
    return _doc(getattr(hookspecs, f"register_{kind}"))


def _bundled(kind: str) -> Iterator[Registered]:
    yield from (c for c in registry().describe() if c.kind == kind and c.plugin.distribution == DISTRIBUTION)


def _names(kind: str) -> str:
    return " ".join(f"`{one.name}`" for one in _bundled(kind))


def _api() -> str:
    return _page("Public API", OUR_FRONT, *(_public(name) for name in rlhf_plugins.__all__))


def _public(name: str) -> str:
    value = getattr(rlhf_plugins, name)
    shown = _fields(value) if dataclasses.is_dataclass(value) else _heading(value)
    return "\n".join([f"## `{name}`", "", *shown, FOREIGN.get(name) or _doc(value)])


def _heading(value: Any) -> list[str]:
    """How a function is called; nothing of an exception or a marker."""
    function = inspect.unwrap(value) if callable(value) else value
    return ["```python", _signature(function), "```", ""] if inspect.isfunction(function) else []


def _fields(record: Any) -> list[str]:
    lines = inspect.getsource(record).partition('"""\n')[2].splitlines()
    own = [line.removeprefix("    ") for line in lines if FIELD.match(line)]
    return ["```python", *own, "```", ""] if own else []


def _doc(value: Any) -> str:
    return inspect.getdoc(value) or ""


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([NOTE, f"# {title}", *parts]) + "\n"


if __name__ == "__main__":
    for file, text in pages().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
