"""The policy that a recipe's base is, where an evaluation compares it with the model that it was trained from."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_plugins.contract.handles import Policy
    from rlhf_plugins.contract.run import Run

START = "start"  # a name of the recipe's base, where a policy of the run has its own


def name_of_base(run: Run, trained: Collection[str]) -> str:
    """What the recipe's base is called where it is compared with the model below it; else empty.

    Args:
        run: of the evaluation.
        trained: the names of the policies that the run made.
    """
    from rlhf_plugins.recipe.base_policy import NAME, called

    own, reference = run.weights("base"), run.weights("reference")
    if reference.name != NAME or own == reference:
        return ""
    name = called(own)
    return START if name in trained else name


def open_base(run: Run) -> Policy:
    """The recipe's base as a policy."""
    from rlhf_plugins.engine.policy import open_policy

    own = run.weights("base")
    return open_policy(own.folder, own.base, backbone=run.backbone)


def sentences(run: Run, name: str) -> list[str]:
    """Which model the reference is, where the base of a name was trained from it."""
    path = run.weights("reference").base.path
    return [f"The reference base is {path}, from which {name}, the base of the recipe, was trained."] if name else []
