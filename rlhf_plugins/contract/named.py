"""A mapping that answers an unknown name with the known ones and the nearest."""

from __future__ import annotations

from typing import Any, NoReturn

from rlhf_plugins.errors import nearest


class UnknownName(KeyError):
    """There is no entry of this name; a guard adds who asked for it."""

    def __str__(self) -> str:
        return str(self.args[0])


class Named(dict[str, Any]):
    """Values by name; `get` and `in` are a dict's.

    Args:
        what: what a name is called in the message, such as `metric`.
        values: by name.
    """

    def __init__(self, what: str, values: Any = ()) -> None:
        super().__init__(values)
        self.what = what

    def __missing__(self, name: str) -> NoReturn:
        raise UnknownName(f"unknown {self.what} {name!r} {nearest(str(name), map(str, self))}")
