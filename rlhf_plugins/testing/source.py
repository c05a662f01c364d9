"""What the source of a component's package reads."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

WHOLE = {f"{name}(self)" for name in ("asdict", "astuple", "fields", "replace", "vars")}  # these read every field


def reads(cls: type, name: str) -> bool:
    """Whether the package of the class, or that of a base of it, reads an attribute of that name anywhere."""
    ours = "rlhf_plugins.contract."  # the base classes of kinds, from which every component derives
    modules = {base.__module__ for base in cls.__mro__ if base is not object and not base.__module__.startswith(ours)}
    read = set().union(*(_read(file) for module in modules for file in _files(module)))
    return name in read or bool(WHOLE & read)


def _files(module: str) -> list[Path]:
    """The files of the package that contains a module, or the module's own file."""
    for name in (module.partition(".")[0], module):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            return sorted(Path(file).parent.rglob("*.py")) if Path(file).name == "__init__.py" else [Path(file)]
    return []


@cache
def _read(file: Path) -> frozenset[str]:
    return frozenset(_names(ast.parse(file.read_text(encoding="utf-8"))))


def _names(tree: ast.AST) -> Iterator[str]:
    """Attributes that are read, names that are passed as text, and `f(self)` where a function is given the whole."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        elif isinstance(node, ast.Call):
            words = [word.value for word in node.args if isinstance(word, ast.Constant)]
            yield from (word for word in words if isinstance(word, str))
            if any(isinstance(word, ast.Name) and word.id == "self" for word in node.args):
                yield f"{getattr(node.func, 'attr', getattr(node.func, 'id', ''))}(self)"
