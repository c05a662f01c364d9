"""How an OnlineTrainer learns from a training step: micro-batch by micro-batch, in smaller ones where memory runs out.

The loss is in `ppo.step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.run import Alarm
from rlhf_plugins.errors import RunError
from rlhf_plugins.trainers.arguments import not_finite
from rlhf_plugins.trainers.ppo import in_parts, oversight, step
from rlhf_plugins.trainers.steps.data_parallel import through
from rlhf_plugins.trainers.steps.micro_batches import accumulate, steps_in_backward, without_step
from rlhf_plugins.trainers.steps.recovery import Cutting, Recovery

if TYPE_CHECKING:
    from rlhf_plugins.trainers.ppo.models import Outputs
    from rlhf_plugins.trainers.ppo.rollout import MicroBatch


def recovering(trainer: Any) -> Recovery | None:
    """What computes the micro-batches of an OnlineTrainer; None where no gradient of them can be taken back."""
    if steps_in_backward(trainer.args):
        return None
    noted = [(trainer, "_step_numbers"), *([(trainer, "_theirs")] if trainer._theirs else [])]

    def halves(part: MicroBatch) -> list[MicroBatch]:
        cut = in_parts.halves(trainer._rollouts, trainer._experience.samples, part)
        if cut:
            trainer._experience.first = None  # outputs of the whole micro-batch
        return cut

    return Recovery(trainer.model, lambda: noted, Cutting(halves, lambda part: part.tokens))


class LearnsInParts:
    """An OnlineTrainer's training steps; a class's first base."""

    def _compute_loss(self: Any, model: Any, inputs: Any) -> Tensor:
        """What a training step adds to the loss; the gradients of its micro-batches are accumulated here.

        Raises:
            RunError: the loss is not finite, or memory does not hold a single response.
        """
        if self.obstacle is not None or not self.model.training:
            theirs: Tensor = super()._compute_loss(model, inputs)  # type: ignore[misc]
            return theirs
        if self._recovery is not None and processes.count() == 1:
            loss: Tensor = torch.stack([self._recovery.computed(self._learn, part) for part in inputs]).sum()
            loss.requires_grad_()  # all gradients are there: TRL's own backward pass adds none
        else:
            loss = self._in_step(model, inputs)
        if self._theirs:
            self._note(**self._theirs.take())
        return loss

    @property
    def warms_up(self: Any) -> bool:
        """Whether the next optimizer step trains the critic's own weights alone."""
        first = self.obstacle is None and self._critic is not None
        return first and self.state.global_step < self._objective.value.warmup_steps

    def _hold_policy(self: Any) -> None:
        """Takes the gradients of all other weights away in such a step: no optimizer changes a weight without one.

        Raises:
            RunError: no step is left for them.
        """
        if self.warms_up:
            if reason := self._objective.value.no_policy_step(self.state.max_steps):
                raise RunError(reason)
            own = {id(weights) for weights in self.value_weights.values()}
            for weights in self.model.parameters():
                if id(weights) not in own:
                    weights.grad = None

    def _clip_grad_norm(self: Any, model: Any) -> Any:
        """Clips the gradients of the weights that this step trains."""
        self._hold_policy()
        return super()._clip_grad_norm(model)  # type: ignore[misc]

    def _get_grad_norm(self: Any, model: Any, grad_norm: Any = None) -> Any:
        """DeepSpeed's engine would give that of its last step where this one is skipped."""
        self._hold_policy()
        skipped = processes.divides_optimizer() and self.obstacle is None and not self._trains
        return 0.0 if skipped else super()._get_grad_norm(model, grad_norm)  # type: ignore[misc]

    def _learn(self: Any, part: MicroBatch) -> Tensor:
        """The loss of a micro-batch; its gradients are accumulated."""
        loss = self._loss_of(part)
        if not loss.isfinite():
            self._stop_at(loss, part)
        self.accelerator.backward(loss)
        return loss.detach()

    def _in_step(self: Any, model: Any, parts: Sequence[MicroBatch]) -> Tensor:
        """The loss of micro-batches, of which none is cut further; gradients of all but the last are accumulated."""
        loss, several = torch.zeros(()), processes.count() > 1
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            with nullcontext() if last or not several else without_step(self.accelerator, model):
                own = through(model, self.model, partial(self._loss_of, part))
                if not several and not own.isfinite():
                    self._stop_at(own, part)
                if not last:
                    accumulate(self.accelerator, own)
            loss = own + loss.detach()
        if not processes.mean(loss).isfinite():
            self._stop_at(loss, parts[-1])
        return loss

    def _loss_of(self: Any, part: MicroBatch) -> Tensor:
        """What a micro-batch adds to the loss, as its part of the mean over processes; it notes its numbers."""
        outputs = self._outputs(part)
        own: Tensor
        own, numbers = step.loss(outputs, part, self._experience, self._objective)
        if not part.counts:
            return own * 0.0
        if self._theirs:
            self._theirs.add(outputs, part, self._experience)
        for name, value in numbers.items():
            self._step_numbers[name] += value
        count = processes.count()
        return own if count == 1 else own * count

    def _outputs(self: Any, part: MicroBatch) -> Outputs:
        """Policy and critic outputs for a micro-batch; those of a rollout's only one were computed with the rollout."""
        first, self._experience.first = self._experience.first, None
        entropy = self._objective.entropy_coef != 0 or self._theirs is not None
        found: Outputs = first or self._models.outputs(part.batch, entropy=entropy)
        return found

    def _stop_at(self: Any, loss: Tensor, part: MicroBatch) -> None:
        """Ends the training for a loss that is not finite. Raises RunError."""
        shown = oversight.step_of(self._experience, {}, {}).shown(part.rows.tolist())
        alarm = Alarm(not_finite("the loss", loss), {"responses": shown}, action="stop")
        self.monitors.stop("finite", alarm, self.state.global_step)
