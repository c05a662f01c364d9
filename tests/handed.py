"""What a stage handed on, as the tests of several folders look at it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def folder_of(specs: Mapping[str, Mapping[str, Any]]) -> Path:
    """The folder of the only policy or reward model that a stage handed on."""
    (spec,) = specs.values()
    return Path(spec["path"])
