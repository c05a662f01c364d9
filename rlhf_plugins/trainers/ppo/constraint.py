"""The KL to the reference: a hard limit that no optimizer step passes, and the next coefficient of the term."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from rlhf_plugins.contract.guards import named
from rlhf_plugins.contract.interfaces import KL
from rlhf_plugins.errors import PluginError, RunError
from rlhf_plugins.trainers.steps.micro_batches import stepping, steps_in_backward

if TYPE_CHECKING:
    from rlhf_plugins.data.batches.branches import BranchBatch
    from rlhf_plugins.trainers.ppo.models import Models

HALVINGS = 20  # after which nothing is left of an update in float32


class Constraint(TrainerCallback):
    """After each optimizer step: halves the update until the KL is accepted, and undoes it if none is.

    Args:
        kl: accepts an update or not.
        models: what the KL is measured of.
        weights: gives the policy's, those that are trained; a launch may put others in their place.
        note: logs numbers of an update.
    """

    def __init__(
        self,
        kl: KL,
        models: Models,
        weights: Callable[[], Sequence[nn.Parameter]],
        note: Callable[[Mapping[str, float]], None],
    ) -> None:
        self._kl, self._models, self._weights, self._note = kl, models, weights, note
        self._batches: Sequence[BranchBatch] | None = None
        self._before: tuple[list[Tensor], float] | None = None  # weights and KL without the update
        self._measured: float | None = None

    def use(self, batches: Sequence[BranchBatch] | None) -> None:
        """Measures the KL from now on at the response tokens of these batches, of one rollout; None: no longer."""
        self._batches, self._measured = batches, None

    def state_dict(self) -> dict[str, Any]:
        """The KL as it was last measured."""
        return {"measured": self._measured}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave, once the batches of the rollout are known again."""
        self._measured = state["measured"]

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Called by the trainer."""
        if self._batches is not None:
            kl = self._models.kl_per_token(self._batches) if self._measured is None else self._measured
            self._before = [weights.detach().clone() for weights in self._weights()], kl

    @torch.no_grad()
    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Called by the trainer."""
        if self._before is None or self._batches is None:
            return
        (old, before), self._before = self._before, None
        share, kl = 1.0, self._models.kl_per_token(self._batches)
        while share and not self._kl.accepts(kl, before):
            share = share / 2 if share > 0.5**HALVINGS else 0.0
            for weights, start in zip(self._weights(), old, strict=True):
                weights.copy_(torch.lerp(start, weights, 0.5) if share else start)
            kl = self._models.kl_per_token(self._batches) if share else before
        self._measured = kl
        self._note({"update_share": share, "constrained_kl": kl})


def constrain(trainer: Any, kl: KL, models: Models) -> Constraint:
    """Makes a trainer halve the updates of its policy, but for the critic's own weights.

    Raises:
        RunError: its optimizer steps within the backward pass.
    """
    if steps_in_backward(trainer.args):
        how = stepping(trainer.args)
        raise RunError(f"kl: a constraint measures whole updates, but {how} steps within the backward pass")

    def own() -> list[nn.Parameter]:
        others = {id(weights) for weights in (models.critic.weights.values() if models.critic else ())}
        return [p for p in trainer.model.parameters() if p.requires_grad and id(p) not in others]

    made = Constraint(kl, models, own, trainer.note_update)
    trainer.add_callback(made)
    return made


def adapted(term: KL, coef: float, kl: float, episodes: int) -> float:
    """The next coefficient. Raises PluginError if it is no finite number of 0 or more."""
    found = term.adapted(coef, kl, episodes)
    if not (isinstance(found, Real) and 0 <= found < inf):
        raise PluginError(f"{named(term)} adapted its coefficient to {found!r}, not to a finite number of 0 or more")
    return float(found)
