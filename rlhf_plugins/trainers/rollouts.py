"""From prompts to episodes: sample, score, compute log-probabilities, estimate advantages, cut into minibatches.

It knows no optimizer and no loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_plugins.arithmetic import masked
from rlhf_plugins.contract.interfaces import KL, Advantage
from rlhf_plugins.contract.rollout import Advantages, Rollout
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.data.branches import BranchBatch
from rlhf_plugins.trainers.episodes import Episodes, MicroBatch, Minibatch, ScoredSamples
from rlhf_plugins.trainers.scoring import ResponseRewards, Scorer
from rlhf_plugins.trainers.settings import Exploration

if TYPE_CHECKING:
    from rlhf_plugins.trainers.passes import Outputs, Passes

TokenTensors = dict[str, Tensor]  # by name, each (B, T)


@dataclass(frozen=True)
class Rollouts:
    """Makes the episodes of one training.

    Args:
        sample: from prompts to sampled responses, those to one prompt side by side.
        greedy: the same with greedy decoding.
        group: responses to a prompt.
        size: responses of a minibatch.
        tokens: most tokens of one forward pass, padding included; a response that alone has more is a pass of its own.
            None is no limit.
    """

    sample: Callable[[Sequence[Any]], Samples]
    greedy: Callable[[Sequence[Any]], Samples]
    passes: Passes
    scorer: Scorer
    advantage: Advantage
    kl: KL
    exploration: Exploration | None
    group: int
    size: int
    tokens: int | None = None

    def score(self, prompts: Sequence[Any]) -> ScoredSamples:
        """Responses to the prompts, without those that have no reward, and without groups that are too small then.

        Where the estimator needs a baseline, greedy responses are scored and shaped together with the samples, so that
        both are on one scale.
        """
        samples = self.sample(prompts)
        if not self.advantage.reads_baseline:
            return self._kept(samples, self.scorer(samples))
        greedy = self.greedy(samples.prompts[:: self.group])
        return self._kept(samples, self.scorer(samples + greedy))

    def _kept(self, samples: Samples, found: ResponseRewards) -> ScoredSamples:
        """The responses that can be trained on; `found` has greedy responses, one a prompt, after the samples."""
        count, scores = len(samples.responses), found.scores.tolist()
        baseline = {place - count: scores[row] for row, place in enumerate(found.places) if place >= count}
        own = [row for row, place in enumerate(found.places) if place < count]
        group = {row: found.places[row] // self.group for row in own}
        if self.advantage.reads_baseline:
            group = {row: prompt for row, prompt in group.items() if prompt in baseline}
        paired = len(group)
        sizes = Counter(group.values())
        rows = [row for row, prompt in group.items() if sizes[prompt] >= self.advantage.min_group]
        kept = samples.take([found.places[row] for row in rows])
        prompts = [group[row] for row in rows]
        known = [baseline[prompt] for prompt in prompts] if self.advantage.reads_baseline else None
        return ScoredSamples(
            samples=kept,
            rewards=found.take(rows, max(map(len, kept.response_ids), default=0)).to(self._device),
            group=torch.tensor(prompts, device=self._device),
            baseline=None if known is None else torch.tensor(known, device=self._device),
            sampled=count,
            abstained=count - len(own),
            without_baseline=len(own) - paired,
            too_few=paired - len(rows),
        )

    def episodes(self, scored: ScoredSamples, coef: float) -> Episodes:
        """What training needs of the responses, with the KL term at this coefficient."""
        samples, rewards = scored.samples, scored.rewards
        minibatches = [self._batches(samples, rows) for rows in self._minibatches(scored)]
        batches = [batch for minibatch in minibatches for batch in minibatch]
        computed = [self._compute(batch, keep=len(batches) == 1) for _, batch in batches]
        tensors = _joined([found for found, _ in computed], [rows for rows, _ in batches])
        mask = tensors["mask"].bool()
        log_ratio = tensors["policy"] - tensors["reference"]
        penalty = self.kl(log_ratio).off_reward
        paid = rewards.token_rewards
        paid = paid if penalty is None else (paid - coef * penalty).masked_fill(~mask, 0.0)
        estimate = self._estimate(
            Rollout(
                scores=rewards.scores,
                rewards=paid,
                values=tensors.get("values"),
                mask=mask,
                group=scored.group,
                log_probs=tensors["policy"],
                baseline=scored.baseline,
            )
        )
        known = {**tensors, "advantages": estimate.advantages, "returns": estimate.returns}
        return Episodes(
            samples=samples,
            rewards=rewards,
            token_rewards=paid,
            mask=mask,
            log_ratio=log_ratio,
            entropies=tensors["entropies"],
            values=tensors.get("values"),
            advantages=estimate.advantages,
            returns=estimate.returns,
            minibatches=tuple(Minibatch(tuple(_micro_batch(known, *one) for one in each)) for each in minibatches),
            baseline=scored.baseline,
            outputs=computed[0][1] if len(computed) == 1 else None,
        )

    def _minibatches(self, scored: ScoredSamples) -> list[Tensor]:
        """The places of each minibatch's responses: the groups in random order, in parts of nearly equal size."""
        sizes = Counter(scored.group.tolist())  # in the order of sampling
        groups = torch.arange(len(scored.group)).split(list(sizes.values()))
        order = torch.cat([groups[i] for i in torch.randperm(len(groups)).tolist()])
        return list(order.tensor_split(-(-scored.sampled // self.size)))

    def _batches(self, samples: Samples, rows: Tensor) -> list[tuple[Tensor, BranchBatch]]:
        """The micro-batches of a minibatch: the places of the responses of each, and these as a batch."""
        if not len(rows):
            return []
        kept = samples.take(rows.tolist())
        batches = self.passes.batches(kept.prompt_ids, kept.response_ids, self.tokens)
        return list(zip(rows.split([len(batch.index) for batch in batches]), batches, strict=True))

    def _compute(self, batch: BranchBatch, keep: bool) -> tuple[TokenTensors, Outputs]:
        """Policy, critic and reference outputs for a micro-batch, laid out as in training: first ratios are exactly 1.

        The second are the outputs of policy and critic, with their graph where `keep` asks for it.
        """
        reference = self.passes.reference_log_probs(batch)
        with torch.set_grad_enabled(keep):
            outputs = self.passes.policy(batch, entropy=True)
        assert outputs.entropies is not None  # they were asked for
        log_probs = outputs.log_probs.detach()
        found = {
            "mask": batch.response_mask().float(),
            "policy": log_probs,
            "log_probs": self._sampled(batch, log_probs),
            "reference": reference,
            "entropies": outputs.entropies.detach(),
        }
        return found if outputs.values is None else {**found, "values": outputs.values.detach()}, outputs

    def _sampled(self, batch: BranchBatch, log_probs: Tensor) -> Tensor:
        """Log-probabilities under the distribution that sampled."""
        if self.exploration is None:
            return log_probs
        return self.passes.explored_log_probs(batch, log_probs, self.exploration)

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.passes.model.device
        return device

    def _estimate(self, rollout: Rollout) -> Advantages:
        estimate = self.advantage(rollout)
        if not self.advantage.whitens:
            return estimate
        return Advantages(masked.whiten(estimate.advantages, rollout.mask), estimate.returns)


def _joined(parts: Sequence[TokenTensors], places: Sequence[Tensor]) -> TokenTensors:
    """The tensors of micro-batches as whole ones, in the order of sampling."""
    shape = sum(map(len, places)), max(part["mask"].shape[1] for part in parts)
    whole = {name: torch.zeros(shape, dtype=t.dtype, device=t.device) for name, t in parts[0].items()}
    for part, rows in zip(parts, places, strict=True):
        for name, tensor in part.items():
            whole[name][rows.to(tensor.device), : tensor.shape[1]] = tensor
    return whole


def _micro_batch(known: TokenTensors, places: Tensor, batch: BranchBatch) -> MicroBatch:
    length = int(batch.lengths.max())
    rows = places.to(batch.lengths.device)
    names = ("log_probs", "reference", "advantages", "returns")
    cut = {name: known[name][rows, :length] for name in names}
    values = known["values"][rows, :length] if "values" in known else None
    return MicroBatch(rows=rows, batch=batch, values=values, **cut)
