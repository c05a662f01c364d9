"""The mark of an option that names a file or a folder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OnDisk:
    """Marks an option that may name a file or a folder: `Annotated[str, OnDisk()]`.

    In a recipe's file it is relative to the folder of the recipe, on the command line to the working directory. What is
    there is made absolute before the component is made; what is not there, such as a name on the hub, stays as it is.

    Args:
        until: what ends the path where more may follow it, such as `#` in `runs/a#dpo`.
        words: other values of the option, which name no file.
    """

    until: str = ""
    words: tuple[str, ...] = ()
