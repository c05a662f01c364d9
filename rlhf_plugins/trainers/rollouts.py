"""From prompts to episodes: sample, look, score, estimate, cut into minibatches. It knows no optimizer, no loss."""

from __future__ import annotations

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
from rlhf_plugins.trainers.episodes import Episodes, Minibatch, Piece
from rlhf_plugins.trainers.scoring import Scorer, Told
from rlhf_plugins.trainers.settings import Exploration

if TYPE_CHECKING:
    from rlhf_plugins.trainers.passes import Passes, Seen

Looked = dict[str, Tensor]  # by name, each (B, T)


@dataclass(frozen=True)
class Rollouts:
    """Makes the episodes of one training.

    Args:
        sample: from prompts to what the policy answers, those of one prompt side by side.
        greedy: the same, without chance.
        group: responses to a prompt.
        size: responses of a minibatch.
        tokens: most tokens of one pass, padding included; a response that alone has more is a pass. None is no limit.
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

    def make(self, prompts: Sequence[Any], coef: float) -> Episodes:
        """One rollout, with the pull towards the reference at strength `coef`."""
        samples = self.sample(prompts)
        told, baseline = self._told(samples)
        minibatches = [self._laid(samples, pick) for pick in self._picks(len(samples.responses))]
        laid = [piece for pieces in minibatches for piece in pieces]
        looks = [self._look(batch, keep=len(laid) == 1) for _, batch in laid]
        seen = _joined([found for found, _ in looks], [pick for pick, _ in laid])
        mask = seen["mask"].bool()
        log_ratio = seen["policy"] - seen["reference"]
        penalty = self.kl(log_ratio).off_reward
        rewards = told.paid if penalty is None else (told.paid - coef * penalty).masked_fill(~mask, 0.0)
        group = torch.arange(len(mask), device=mask.device) // self.group
        estimate = self._estimate(
            Rollout(told.scores, rewards, seen.get("values"), mask, group, seen["policy"], baseline)
        )
        known = {**seen, "advantages": estimate.advantages, "returns": estimate.returns}
        return Episodes(
            samples,
            told.rewards,
            told.scores,
            told.by_token,
            rewards,
            mask,
            log_ratio,
            seen["entropies"],
            seen.get("values"),
            estimate.advantages,
            estimate.returns,
            tuple(Minibatch(tuple(_piece(known, *piece) for piece in pieces)) for pieces in minibatches),
            looks[0][1] if len(looks) == 1 else None,
        )

    def _picks(self, count: int) -> list[Tensor]:
        """The places of each minibatch's responses, the prompts' groups in random order and unbroken."""
        groups = torch.arange(count).split(self.group)
        order = torch.cat([groups[i] for i in torch.randperm(len(groups)).tolist()])
        return list(order.split(self.size))

    def _laid(self, samples: Samples, pick: Tensor) -> list[tuple[Tensor, BranchBatch]]:
        """A minibatch in pieces: the places of each one's responses, and these as a batch."""
        prompts, responses = ([ids[i] for i in pick.tolist()] for ids in (samples.prompt_ids, samples.response_ids))
        batches = self.passes.batches(prompts, responses, self.tokens)
        return list(zip(pick.split([len(batch.index) for batch in batches]), batches, strict=True))

    def _look(self, batch: BranchBatch, keep: bool) -> tuple[Looked, Seen]:
        """What the models say of a piece, laid out as it is trained on, so that the first ratios are exactly 1.

        The second is what policy and critic said, with its graph where it is to be kept.
        """
        reference = self.passes.reference_log_probs(batch)
        with torch.set_grad_enabled(keep):
            seen = self.passes.policy(batch, entropy=True)
        assert seen.entropies is not None  # they were asked for
        log_probs = seen.log_probs.detach()
        found = {
            "mask": batch.response_mask().float(),
            "policy": log_probs,
            "log_probs": self._sampled(batch, log_probs),
            "reference": reference,
            "entropies": seen.entropies.detach(),
        }
        return found if seen.values is None else {**found, "values": seen.values.detach()}, seen

    def _sampled(self, batch: BranchBatch, log_probs: Tensor) -> Tensor:
        """Log-probabilities under what really sampled."""
        if self.exploration is None:
            return log_probs
        return self.passes.explored_log_probs(batch, log_probs, self.exploration)

    def _told(self, samples: Samples) -> tuple[Told, Tensor | None]:
        """The rewards and, where the estimator wants them, the scores of greedy responses (B,).

        Both are asked for and shaped together, so that they are on one scale.
        """
        if not self.advantage.reads_baseline:
            return self.scorer(samples).to(self._device), None
        greedy = self.greedy(samples.prompts[:: self.group])
        told = self.scorer(samples + greedy).to(self._device)
        count, longest = len(samples.responses), max(map(len, samples.response_ids))
        return told.first(count, longest), told.scores[count:].repeat_interleave(self.group)

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.passes.model.device
        return device

    def _estimate(self, rollout: Rollout) -> Advantages:
        estimate = self.advantage(rollout)
        if not self.advantage.whitens:
            return estimate
        return Advantages(masked.whiten(estimate.advantages, rollout.mask), estimate.returns)


def _joined(parts: Sequence[Looked], picks: Sequence[Tensor]) -> Looked:
    """The pieces' tensors as whole ones, in the order of sampling."""
    shape = sum(map(len, picks)), max(part["mask"].shape[1] for part in parts)
    whole = {name: torch.zeros(shape, dtype=t.dtype, device=t.device) for name, t in parts[0].items()}
    for part, pick in zip(parts, picks, strict=True):
        for name, tensor in part.items():
            whole[name][pick.to(tensor.device), : tensor.shape[1]] = tensor
    return whole


def _piece(known: Looked, pick: Tensor, batch: BranchBatch) -> Piece:
    length = int(batch.lengths.max())
    rows = pick.to(batch.lengths.device)
    cut = {name: tensor[rows, :length] for name, tensor in known.items()}
    return Piece(rows, batch, cut["log_probs"], cut["reference"], cut["advantages"], cut["returns"], cut.get("values"))
