"""What plugin authors test with: the conformance kit, and a tiny base, tiny preferences and a run to give to a stage.

It imports nothing until asked.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_plugins.testing.conformance import Finding, check, examine, holds_of, properties_of, subjects, subjects_in
    from rlhf_plugins.testing.subject import Broken, Subject, expect
    from rlhf_plugins.testing.tiny import tiny_base, tiny_encoder, tiny_pairs, tiny_run

__all__ = [
    "Broken",
    "Finding",
    "Subject",
    "check",
    "examine",
    "expect",
    "holds_of",
    "properties_of",
    "subjects",
    "subjects_in",
    "tiny_base",
    "tiny_encoder",
    "tiny_pairs",
    "tiny_run",
]

_CONFORMANCE, _SUBJECT, _TINY = (f"{__name__}.{module}" for module in ("conformance", "subject", "tiny"))
_LAZY = {
    **dict.fromkeys(
        ("Finding", "check", "examine", "holds_of", "properties_of", "subjects", "subjects_in"), _CONFORMANCE
    ),
    **dict.fromkeys(("Broken", "Subject", "expect"), _SUBJECT),
    **dict.fromkeys(("tiny_base", "tiny_encoder", "tiny_pairs", "tiny_run"), _TINY),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
