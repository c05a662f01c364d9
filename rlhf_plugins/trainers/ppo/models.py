"""The models of online training: outputs of policy, critic and reference, and the mixture that explores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rlhf_plugins.contract import processes
from rlhf_plugins.data.batches.branches import BranchBatch, Ids, Layout, by_prompt, collate, within_budget
from rlhf_plugins.engine.backbone import active_adapter
from rlhf_plugins.engine.forward import inner_of
from rlhf_plugins.engine.log_probs import response_logits, response_logps
from rlhf_plugins.engine.probing import layout_of
from rlhf_plugins.engine.weights.shards import gathered
from rlhf_plugins.trainers.ppo.options import Exploration

if TYPE_CHECKING:
    from rlhf_plugins.trainers.ppo.critic import Critic


class Outputs(NamedTuple):
    """Outputs of policy and critic for each response token; all (B, T), 0 after a response's end."""

    log_probs: Tensor  # nats, at the sampling temperature
    entropies: Tensor | None  # nats; None unless asked for
    values: Tensor | None  # in the reward's unit; None where there is no critic
    states: Tensor | None = None  # (tokens, width) what the value head read; None where there is no critic


@dataclass(frozen=True)
class Models:
    """The models of one training.

    Args:
        policy: with another adapter, or none, it is the reference, unless there is a model for that.
        reference: a frozen model, as where all weights of the policy are trained; else the adapter's name, or None.
        critic: None where no values are needed.
        pad_id: token that fills short rows.
        temperature: divides the logits, as sampling did.
        accelerator: the trainer's, which knows the mixed precision.
    """

    policy: Any
    reference: Any
    critic: Critic | None
    pad_id: int
    temperature: float
    accelerator: Any

    def layout(self) -> Layout:
        """How groups become rows that all models compute, each of which is then ready for it."""
        reference = None if isinstance(self.reference, str) else self.reference
        return layout_of(self.policy, reference, self.critic and self.critic.network)

    def batches(self, prompt_ids: Sequence[Ids], response_ids: Sequence[Ids], tokens: int | None) -> list[BranchBatch]:
        """The samples in order, in batches of at most so many tokens; neighbours with the same prompt share it."""
        layout, groups = self.layout(), by_prompt(prompt_ids, response_ids)
        parts = [groups] if tokens is None else within_budget(groups, tokens, layout)
        inputs = [collate(part, self.pad_id, layout) for part in parts]
        return [BranchBatch.from_inputs({k: v.to(self.policy.device) for k, v in one.items()}) for one in inputs]

    def outputs(self, batch: BranchBatch, entropy: bool = False) -> Outputs:
        """Policy and critic outputs for a micro-batch, in one pass, with gradients where they are enabled."""
        with self.accelerator.autocast():
            found = response_logps(self.policy, batch, self.temperature, entropy)
            if self.critic is None:
                return Outputs(found.logps, found.entropies, values=None)
            states = self.critic.states(found.hidden, batch)
        return Outputs(found.logps, found.entropies, self.critic.values(states, batch), states)

    def valued_again(self, outputs: Outputs, batch: BranchBatch) -> Outputs:
        """The outputs with the values of the head as it is now, whose graph holds nothing of what it was."""
        if self.critic is None or outputs.states is None:
            return outputs
        return outputs._replace(values=self.critic.values(outputs.states, batch))

    @torch.no_grad()
    def reference_log_probs(self, batch: BranchBatch) -> Tensor:
        """Log-probabilities under the reference, (B, T)."""
        with self.accelerator.autocast(), self._as_reference() as reference:
            return response_logps(reference, batch, self.temperature).logps

    @contextmanager
    def _as_reference(self) -> Iterator[Any]:
        if not isinstance(self.reference, str | None):
            yield self.reference
            return
        with active_adapter(self.policy, self.reference):  # PEFT's own would freeze the critic's adapter
            yield self.policy

    @torch.no_grad()
    def kl_per_token(self, batches: Sequence[BranchBatch]) -> float:
        """KL(pi || pi_ref) over the vocabulary at the temperature, the mean over the response tokens of batches.

        In several processes it is over the batches of all.
        """
        total, count = 0.0, 0
        with gathered(self.policy):
            for batch in batches:
                with self.accelerator.autocast():
                    both = [response_logits(self.policy, batch)]
                    with self._as_reference() as reference:
                        both.append(response_logits(reference, batch))
                own, other = ((logits / self.temperature).log_softmax(-1) for logits in both)
                total, count = total + float((own.exp() * (own - other)).sum()), count + len(own)
        every = processes.gathered((total, count))
        return sum(own for own, _ in every) / sum(tokens for _, tokens in every)

    @torch.no_grad()
    def explored_log_probs(self, batch: BranchBatch, log_probs: Tensor, exploration: Exploration) -> Tensor:
        """log((1 - epsilon) pi + epsilon pi') of tokens whose log pi is known, (B, T)."""
        with self.accelerator.autocast():
            hot = response_logps(self.policy, batch, exploration.temperature).logps
        return mixed(log_probs, hot, exploration.epsilon).masked_fill(~batch.response_mask(), 0.0)

    @contextmanager
    def exploring(self, exploration: Exploration | None) -> Iterator[None]:
        """While the policy generates: its logits, divided by the temperature, are the mixture's. None changes nothing.

        It is exact for plain sampling only: top-p, top-k and the like sample from another distribution.
        """
        if exploration is None:
            yield
            return

        def mix(_: Any, __: Any, output: Any) -> Any:
            logits = output.logits.float()
            own, hot = ((logits / t).log_softmax(-1) for t in (self.temperature, exploration.temperature))
            output.logits = self.temperature * mixed(own, hot, exploration.epsilon)
            return output

        hook = inner_of(self.policy).register_forward_hook(mix)
        try:
            yield
        finally:
            hook.remove()


def mixed(log_probs: Tensor, other: Tensor, epsilon: float) -> Tensor:
    """log((1 - epsilon) exp(log_probs) + epsilon exp(other)), elementwise."""
    weights = log_probs.new_tensor([1 - epsilon, epsilon]).log()
    return torch.logaddexp(log_probs + weights[0], other + weights[1])
