"""The dropout and noise of a model, which online training is without: ratios of a policy to itself are then 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

NOISE = ("jitter_noise", "input_jitter_noise")  # attributes: noise on inputs of experts, in training alone
SAMPLED = "router_jitter_noise"  # of a router that draws its experts in training, and reads it otherwise too


def random_router(model: Any) -> str | None:
    """The class of a router that draws its experts at random while a model trains; None where it has none."""
    routers = (type(module).__name__ for module in model.modules() if vars(module).get(SAMPLED))
    return next(routers, None)


def dropout(model: Any) -> str | None:
    """Where a model has dropout or noise, and how much; None where it has none."""
    return next((f"{name}.{at}".removesuffix(".p") + f" is {share}" for name, _, at, share in _dropouts(model)), None)


def without_dropout(model: Any) -> None:
    """Disables dropout and noise of a model, also those numbers of modules that TRL's `disable_dropout` leaves on."""
    for _, module, option, _ in list(_dropouts(model)):
        setattr(module, option, 0.0)


def _dropouts(model: Any) -> Iterator[tuple[str, Any, str, float]]:
    for name, module in model.named_modules():
        for option, share in vars(module).items():
            drops = "drop" in option or option in NOISE or (option == "p" and "Dropout" in type(module).__name__)
            if drops and isinstance(share, float) and share > 0:
                yield name, module, option, share
