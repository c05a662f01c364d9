"""The dropout of a model, which online training is without: ratios of a policy to itself are then 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def dropout(model: Any) -> str | None:
    """Where a model has dropout, and how much; None where it has none."""
    return next((f"{name}.{at}".removesuffix(".p") + f" is {share}" for name, _, at, share in _dropouts(model)), None)


def without_dropout(model: Any) -> None:
    """Disables all dropout of a model, also what modules keep as a number, which TRL's `disable_dropout` leaves on."""
    for _, module, option, _ in list(_dropouts(model)):
        setattr(module, option, 0.0)


def _dropouts(model: Any) -> Iterator[tuple[str, Any, str, float]]:
    for name, module in model.named_modules():
        for option, share in vars(module).items():
            drops = "drop" in option or (option == "p" and "Dropout" in type(module).__name__)
            if drops and isinstance(share, float) and share > 0:
                yield name, module, option, share
