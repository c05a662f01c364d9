"""The forward passes of online training: outputs of policy, critic and reference. It knows no loss and no reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rlhf_plugins.data.branches import BranchBatch, Ids, Layout, PromptBranches, by_prompt, collate, within_budget
from rlhf_plugins.engine.backbone import active_adapter
from rlhf_plugins.engine.log_probs import response_logps
from rlhf_plugins.engine.probing import layout_of
from rlhf_plugins.trainers.exploration import mixed
from rlhf_plugins.trainers.settings import Exploration

if TYPE_CHECKING:
    from rlhf_plugins.trainers.critic import Critic


class Outputs(NamedTuple):
    """Outputs of policy and critic for each response token; all (B, T), 0 after a response's end."""

    log_probs: Tensor  # nats, at the sampling temperature
    entropies: Tensor | None  # nats; None unless asked for
    values: Tensor | None  # None where there is no critic


@dataclass(frozen=True)
class Passes:
    """Runs the models of one training.

    Args:
        model: the policy; with its adapter off it is the reference, unless there is one of its own.
        reference: a frozen model where all weights of the policy are trained.
        critic: None where no values are needed.
        pad_id: token that fills short rows.
        temperature: divides the logits, as sampling did.
        autocast: the trainer's context of mixed precision.
    """

    model: Any
    reference: Any
    critic: Critic | None
    pad_id: int
    temperature: float
    autocast: Callable[[], AbstractContextManager[Any]]

    def batches(self, prompt_ids: Sequence[Ids], response_ids: Sequence[Ids], tokens: int | None) -> list[BranchBatch]:
        """The samples in order, in batches of at most so many tokens; neighbours with the same prompt share it."""
        layout = layout_of(self.model, self.reference)
        groups = by_prompt(prompt_ids, response_ids)
        parts = [groups] if tokens is None else within_budget(groups, tokens, layout)
        return [self._batch(part, layout) for part in parts]

    def _batch(self, groups: Sequence[PromptBranches], layout: Layout) -> BranchBatch:
        inputs = collate(groups, self.pad_id, layout)
        return BranchBatch.from_inputs({name: tensor.to(self.model.device) for name, tensor in inputs.items()})

    def policy(self, batch: BranchBatch, entropy: bool = False) -> Outputs:
        """Policy and critic outputs for a micro-batch, in one pass, with gradients where they are enabled."""
        with self.autocast():
            found = response_logps(self.model, batch, self.temperature, entropy)
            values = self.critic.values(found.hidden, batch) if self.critic else None
        return Outputs(found.logps, found.entropies, values)

    @torch.no_grad()
    def reference_log_probs(self, batch: BranchBatch) -> Tensor:
        """Log-probabilities under the reference, (B, T)."""
        with self.autocast():
            if self.reference is not None:
                return response_logps(self.reference, batch, self.temperature).logps
            with active_adapter(self.model, None):  # PEFT's own would turn gradients of the critic's adapter off
                return response_logps(self.model, batch, self.temperature).logps

    @torch.no_grad()
    def explored_log_probs(self, batch: BranchBatch, log_probs: Tensor, exploration: Exploration) -> Tensor:
        """log((1 - epsilon) pi + epsilon pi') of tokens whose log pi is known, (B, T)."""
        with self.autocast():
            hot = response_logps(self.model, batch, exploration.temperature).logps
        return mixed(log_probs, hot, exploration.epsilon).masked_fill(~batch.response_mask(), 0.0)
