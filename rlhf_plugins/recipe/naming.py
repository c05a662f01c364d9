"""Which names files, folders and stages can have."""

from __future__ import annotations

import os
import re

STAGE_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")  # it names a folder
LONGEST = 255  # bytes of a name
UNNAMEABLE = "no file or folder can have this name: it is too long, or holds a character that none may have"


def nameable(path: str) -> bool:
    """Whether a file or folder can have this path."""
    try:
        return "\0" not in path and all(len(os.fsencode(part)) <= LONGEST for part in path.split(os.sep))
    except UnicodeEncodeError:  # half a character
        return False
