"""What the code of a reward function shows of the dicts that it returns; no code is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from rlhf_plugins.contract.reward_rows import FORM, SCORE, listed
from rlhf_plugins.data.functions import FUNCTIONS, code_of


def misreturned(path: str) -> dict[str, str]:
    """The first dict that a function of a file returns for all responses, or for one without its reward.

    It sees what `return` writes out: a dict, and a list or comprehension of dicts with keys of its own.
    """
    code = code_of(path)
    for value in () if code is None else _returned(code):
        at = f"{path} returns in line {value.lineno}"
        if (whole := _keys(value)) is not None:
            return {"path": f"{at} one dict with {listed(whole)}, not one for each response in a list; {FORM}"}
        for row in _rows(value):
            keys = _keys(row)
            if keys is not None and SCORE not in keys:
                return {"path": f"{at} a dict with {listed(keys)}, without {SCORE!r}: {FORM}"}
    return {}


def _returned(node: ast.AST) -> Iterator[ast.expr]:
    """What a function itself returns, not one within it; of a choice both sides."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Return) and child.value is not None:
            yield from _sides(child.value)
        elif not isinstance(child, (*FUNCTIONS, ast.Lambda, ast.ClassDef)):
            yield from _returned(child)


def _sides(value: ast.expr) -> Iterator[ast.expr]:
    if isinstance(value, ast.IfExp):
        yield from _sides(value.body)
        yield from _sides(value.orelse)
    else:
        yield value


def _rows(value: ast.expr) -> Iterator[ast.expr]:
    if isinstance(value, ast.ListComp | ast.GeneratorExp):
        yield from _sides(value.elt)
    for one in value.elts if isinstance(value, ast.List | ast.Tuple) else ():
        yield from _sides(one)


def _keys(value: ast.expr) -> list[str] | None:
    """The keys of a dict that is written out; None of anything else, and where a key is computed."""
    if not isinstance(value, ast.Dict):
        return None
    keys = [key.value for key in value.keys if isinstance(key, ast.Constant)]
    return [key for key in keys if isinstance(key, str)] if len(keys) == len(value.keys) else None
