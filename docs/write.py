"""Writes the pages that are made of the code: docs/components/, one a kind, and docs/api.md. `make docs` runs it.

The text comes from the docstrings and fields of the objects.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import rlhf_plugins
from rlhf_plugins.contract import hookspecs
from rlhf_plugins.contract.component import Component
from rlhf_plugins.contract.metrics import LOGGED
from rlhf_plugins.recipe.options import Option, options
from rlhf_plugins.registry.registry import DISTRIBUTION, KINDS, Registered, bases, registry
from rlhf_plugins.report import schema

DOCS = Path(__file__).parent
NOTE = "<!-- Made of the code by `make docs`: change the docstrings, not this file. -->"
FIELD = re.compile(r"    \w+: ")
UNDOCUMENTED = {  # names for component authors that have no docstring of their own
    "Carry": "The type of an option `carry` of a stage made of trainings: a list of `optimizer`, `value` and `kl`.",
    "hookimpl": "Marks a function of a plugin's module as a hook; pluggy's `HookimplMarker`, with its options.",
}
AUTHORS = "For component authors"
GROUPS: dict[str, list[str]] = {  # by the modules that the names are from
    "Errors": [],
    AUTHORS: ["contract.component", "contract.on_disk", "registry.registry"],
    "Components": [],
    "Rows": ["contract.rows"],
    "Inputs and outputs of components": ["contract.records", "contract.rollout", "contract.selection"],
    "A run": ["contract.run", "contract.checkpoint", "contract.handles", "run.record"],
    "Functions for scripts": [],
}
KEYS = "Metric keys"
ABOUT_KEYS = "The names under which `report.json` holds numbers, and those that stages log at a step."
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
    protocol = bases()[kind]
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


def _hook(kind: str) -> str:
    return _doc(getattr(hookspecs, f"register_{kind}"))


def _bundled(kind: str) -> Iterator[Registered]:
    yield from (c for c in registry().describe() if c.kind == kind and c.plugin.distribution == DISTRIBUTION)


def _names(kind: str) -> str:
    return " ".join(f"`{one.name}`" for one in _bundled(kind))


def _api() -> str:
    groups = [(title, [name for name in rlhf_plugins.__all__ if _group(name) == title]) for title in GROUPS]
    anchors = _anchors([name for _, names in groups for name in names])
    rows = [f"| {title} | {' '.join(f'[`{name}`](#{anchors[name]})' for name in names)} |" for title, names in groups]
    index = "\n".join(["| | |", "|---|---|", *rows])
    parts = [part for title, names in groups for part in (f"## {title}", *(_public(name, anchors) for name in names))]
    return _page("Public API", OUR_FRONT, index, *parts, f"## {KEYS}", _keys())


def _anchors(names: Sequence[str]) -> dict[str, str]:
    """Those of the headings of the page; of headings that differ in case alone, the second one's ends in -1."""
    found: dict[str, str] = {}
    for name in names:
        again = sum(known.lower() == name.lower() for known in found)
        found[name] = name.lower() + (f"-{again}" if again else "")
    return found


def _group(name: str) -> str:
    if name in UNDOCUMENTED:
        return AUTHORS
    value = getattr(rlhf_plugins, name)
    if inspect.isclass(value) and issubclass(value, Exception):
        return "Errors"
    if inspect.isclass(value) and issubclass(value, Component):
        return "Components"
    home = str(getattr(value, "__module__", ""))
    found = next((title for title, modules in GROUPS.items() if home.endswith(tuple(modules))), "A run")
    return found if inspect.isclass(value) or found == AUTHORS else "Functions for scripts"


def _public(name: str, anchors: Mapping[str, str]) -> str:
    value = getattr(rlhf_plugins, name)
    about = UNDOCUMENTED.get(name) or _doc(value)
    own = f'<a id="{anchors[name]}"></a>' if anchors[name] != name.lower() else ""  # not all renderers number alike
    return "\n\n".join(filter(None, [own, f"### `{name}`", *_shown(value), about, *_parts(value)]))


def _shown(value: Any) -> list[str]:
    """How it is written: the fields of a record, the signature of a function, the traits of a kind."""
    if inspect.isclass(value) and issubclass(value, Component):
        return []
    lines = _fields(value) if dataclasses.is_dataclass(value) else _heading(value)
    return ["\n".join(lines).rstrip()] if lines else []


def _parts(value: Any) -> list[str]:
    """The methods of a class, or the traits of a kind and where its components are."""
    if not inspect.isclass(value) or issubclass(value, Exception):
        return []
    if issubclass(value, Component):
        return _kind_parts(value)
    methods = [(name, one) for name, one in vars(value).items() if _is_method(name, one)]
    return ["\n".join(["```python", _signature(_plain(one)), "```", "", _doc(one)]).rstrip() for _, one in methods]


def _kind_parts(cls: type[Component]) -> list[str]:
    own = [(name, one) for name, one in cls.traits.items() if cls is Component or Component.traits.get(name) is not one]
    rows = [f"| `{name}` | {_value(one.default)} | {_cell(one.meaning)}{_choices(one)} |" for name, one in own]
    page = [f"Kind: `{cls.kind}`, with its components on [a page of its own](components/{cls.kind}.md)."]
    table = "\n".join(["| trait | default | |", "|---|---|---|", *rows])
    return [*(page if cls.kind else []), *([table] if rows else [])]


def _value(default: Any) -> str:
    return "none" if default in (None, frozenset()) else f"`{default}`"


def _choices(one: Any) -> str:
    return f" ({', '.join(f'`{choice}`' for choice in one.choices)})" if one.choices else ""


def _is_method(name: str, value: Any) -> bool:
    wanted = not name.startswith("_") or name in ("__call__", "__enter__", "__add__")
    return wanted and inspect.isfunction(_plain(value)) and bool(_doc(value))


def _plain(value: Any) -> Any:
    """The function of a property or a class method."""
    return getattr(value, "fget", None) or getattr(value, "__func__", value)


def _keys() -> str:
    """The names of the numbers in a report, by the record that holds them."""
    tables = []
    for record in (schema.PolicyReport, schema.RewardModelReport, schema.CostReport, schema.RolloutReport):
        names = " ".join(f"`{name}`" for name in record.model_fields)
        tables.append(f"`{record.__name__}`: {names}\n\n{_doc(record)}")
    logged = [f"| `{name}` | {one.unit} | {_cell(one.meaning)} |" for name, one in LOGGED.items()]
    numbers = "\n".join(["| logged by stages | unit | |", "|---|---|---|", *logged])
    return "\n\n".join([ABOUT_KEYS, *tables, numbers])


def _heading(value: Any) -> list[str]:
    """The signature of a function; nothing of an exception or a marker."""
    function = inspect.unwrap(value) if callable(value) else value
    return ["```python", _signature(function), "```", ""] if inspect.isfunction(function) else []


def _fields(record: Any) -> list[str]:
    lines = inspect.getsource(record).partition('"""\n')[2].splitlines()
    body = list(takewhile(lambda line: not line.startswith(("    def ", "    @")), lines))
    own = [line.removeprefix("    ") for line in body if FIELD.match(line)]
    return ["```python", *own, "```", ""] if own else []


def _doc(value: Any) -> str:
    return inspect.getdoc(value) or ""


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([NOTE, f"# {title}", *parts]) + "\n"


if __name__ == "__main__":
    for file, text in pages().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
