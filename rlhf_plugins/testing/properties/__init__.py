"""The properties of the conformance kit, by what they are about; importing a file here adds its properties."""

from __future__ import annotations

from importlib import import_module

ABOUT = (
    "options",
    "tensors",
    "gradients",
    "padding",
    "modules",
    "behaviour",
    "arrays",
    "runs",
    "selection",
    "preparing",
    "loading",
    "training",
    "stages",
)


def loaded() -> None:
    """Sees to it that every property is known."""
    for name in ABOUT:
        import_module(f"{__name__}.{name}")
