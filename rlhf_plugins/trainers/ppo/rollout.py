"""A rollout from top to bottom: sample -> score -> outputs of the models -> advantages -> minibatches.

What is learned from a minibatch is in `step`, what is shown of a rollout in `oversight`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError
from torch import Tensor

from rlhf_plugins.arithmetic import masked
from rlhf_plugins.arithmetic.moments import Unit
from rlhf_plugins.contract import processes
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rollout import Advantages, Rollout
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.data.batches.branches import BranchBatch
from rlhf_plugins.data.conversations import Conversations, converse
from rlhf_plugins.engine import cost
from rlhf_plugins.engine.cpu.folding import folded
from rlhf_plugins.engine.decoding import own_decoding_loop
from rlhf_plugins.engine.sampling import (
    Decoding,
    sample,
    without_generation_defaults,
)
from rlhf_plugins.engine.weights.shards import gathered
from rlhf_plugins.errors import RunError
from rlhf_plugins.trainers.ppo import in_parts
from rlhf_plugins.trainers.ppo.options import Objective
from rlhf_plugins.trainers.ppo.scoring import ResponseRewards, Scorer, equal_siblings, unlearned, with_later_turns
from rlhf_plugins.trainers.ppo.step import loss_weights, token_weights, weights_alike
from rlhf_plugins.trainers.steps.micro_batches import evened

if TYPE_CHECKING:
    from rlhf_plugins.trainers.ppo.models import Models, Outputs

TokenTensors = dict[str, Tensor]  # name -> (B, T)


@dataclass(frozen=True)
class Scored:
    """The responses of a rollout that have a reward, before any model has read them."""

    samples: Samples
    rewards: ResponseRewards
    group: Tensor  # (B,) equal for responses to one prompt
    baseline: Tensor | None  # (B,) scores of greedy responses
    within_groups: bool  # whether nothing but the other responses to its prompt decides what a score is worth
    sampled: int  # conversations in all, each of one response but where an environment goes on
    left_out: Mapping[str, int]  # how many were left out, by reason
    unlearned: Mapping[str, Tensor]  # (B,) True at those that are only left out of the loss, by reason

    @property
    def learned(self) -> Tensor:
        """Whether each is learned from, (B,) on the CPU."""
        left_out = sum(self.unlearned.values(), torch.zeros_like(self.group, dtype=torch.bool))
        return ~left_out.cpu()

    @property
    def equal_rewards(self) -> bool:
        """Whether nothing can be learned: no score differs from what it is compared with, and no token has its own.

        That is its baseline, where there is one, or the scores of the other responses: to its prompt, or all.
        """
        scores, other = self.rewards.scores, self.baseline
        group = self.group if self.within_groups else torch.zeros_like(self.group)
        equal = equal_siblings(scores, group) if other is None else scores == other
        return not self.rewards.by_token and len(scores) > 1 and bool(equal.all())


@dataclass(frozen=True)
class MicroBatch:
    """Responses that are computed together."""

    rows: Tensor  # (b,) places in the rollout
    batch: BranchBatch
    counts: bool = True  # whether it is learned from: not where it is there so that a process takes part

    @property
    def tokens(self) -> int:
        """Tokens that are laid out, padding included."""
        return self.batch.input_ids.numel()


@dataclass
class Experience:
    """The whole state of a rollout: B sampled responses of up to T tokens and all that was computed of them.

    Log-probabilities and entropies are in nats; what is (B, T) is 0 after a response's end.
    """

    samples: Samples
    rewards: ResponseRewards
    group: Tensor  # (B,) equal for responses to one prompt
    equal_rewards: bool  # so that nothing can be learned
    kl_coef: float
    mask: Tensor  # (B, T) True at response tokens
    policy: Tensor  # (B, T) log-probabilities under the policy at the time of sampling
    log_probs: Tensor  # (B, T) under what sampled: the policy, or the mixture that explores
    reference: Tensor | None  # (B, T) under the reference, where there is one
    entropies: Tensor  # (B, T) of the policy
    values: Tensor | None  # (B, T) of the state before each token, in the reward's unit
    value_unit: Unit | None  # moments of all returns so far; None where there is no critic
    token_rewards: Tensor  # (B, T) less the KL where it is in the reward
    advantages: Tensor  # (B, T)
    returns: Tensor  # (B, T) what values are trained to predict
    token_weights: Tensor  # (B, T) of each token in the mean over its minibatch
    loss_weights: Tensor | None  # (B, T) the same in the reduction; None where it is no weighted sum
    steps: tuple[Tensor, ...]  # rows (b,) of each training step of an epoch, of all processes
    parts: tuple[tuple[MicroBatch, ...], ...]  # what each training step computes, of this one
    importance: Tensor | None = None  # (B, T) or (B, 1) weights of losses, where what sampled is corrected for
    first: Outputs | None = None  # outputs of a single micro-batch with their graph, for its first loss

    @property
    def batches(self) -> list[BranchBatch]:
        """All micro-batches of this process that are learned from."""
        return [part.batch for step in self.parts for part in step if part.counts]

    @property
    def log_ratio(self) -> Tensor | None:
        """log pi - log pi_ref, (B, T)."""
        return None if self.reference is None else self.policy - self.reference


RECORDS = (Experience, Samples, ResponseRewards, Prediction, MicroBatch, BranchBatch, Unit)  # that a rollout is made of


@dataclass
class Cut:
    """How a rollout is cut into minibatches, one for each optimizer step, and these into training steps.

    Args:
        size: responses of a training step.
        accumulation: training steps of an optimizer step.
        tokens: most tokens of one forward pass, padding included; a response that alone has more is a pass of its own.
            None is no limit, until memory runs out.
        whole: whether a component needs each minibatch in one pass.
        keeps_groups: whether responses to a prompt are in one minibatch, as far as its size allows.
    """

    size: int
    accumulation: int = 1
    tokens: int | None = None
    whole: bool = False
    keeps_groups: bool = True


@dataclass(frozen=True)
class Rollouts:
    """Makes the rollouts of one training.

    Args:
        ends: tokens that end a response.
        group: responses to a prompt.
    """

    objective: Objective
    models: Models
    ends: frozenset[int]
    group: int
    cut: Cut

    # ---- sample ------------------------------------------------------------------------------------------
    def sample(self, trainer: Any, prompts: Sequence[Any], columns: Mapping[str, list[Any]]) -> Samples:
        """Responses to the prompts as TRL's trainer generates them, those to one prompt side by side.

        Args:
            columns: the columns of the prompts' rows, a value for each response.

        Raises:
            RunError: the chat template refuses a prompt.
        """
        model, own = trainer.model, list(prompts[self._share(len(prompts))])
        explores = self.models.exploring(self.objective.exploration)
        try:
            with folded(model), without_generation_defaults(model), explores, own_decoding_loop(model) as loop:
                found = in_parts.generated_for(trainer, own, prompts[0], loop)
        except TemplateError as error:
            raise RunError(f"the chat template refuses a prompt of this rollout: {error}") from error
        written = tuple([row for each in found for row in each[i]] for i in (0, 1, 3, 4))
        cost.add(generated_tokens=sum(map(len, written[1])))
        every = processes.gathered(written)
        prompt_ids, response_ids, completions, nats = (processes.joined([one[i] for one in every]) for i in range(4))
        trainer.sampler_log_probs += nats
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        return Samples(prompts, texts, prompt_ids, response_ids, columns)

    def _share(self, count: int) -> slice:
        """Which of so many prompts are this process's: whole groups, where they are no later turns."""
        size = 1 if self.objective.turns or count % self.group else self.group
        part = processes.share(count // size)
        return slice(part.start * size, part.stop * size)

    def greedy(self, trainer: Any, samples: Samples) -> Samples | None:
        """A greedy response to each prompt, where the estimator needs a baseline."""
        if not self.objective.advantage.reads_baseline:
            return None
        decoding = Decoding(trainer.max_completion_length, temperature=0.0)
        columns = {name: values[:: self.group] for name, values in samples.columns.items()}
        asked, tokenizer = samples.prompts[:: self.group], trainer.prompt_tokens.tokenizer
        own = sample(trainer.model, tokenizer, asked[processes.share(len(asked))], decoding=decoding)
        return replace(reduce(Samples.__add__, processes.gathered(own)), columns=columns)

    def conversations(self, trainer: Any, samples: Samples) -> Conversations:
        """These responses, and where an environment goes on those of the later turns of their conversations."""
        turns = self.objective.turns
        if turns is None:
            return Conversations.of_one_turn(samples)
        return converse(samples, partial(self.sample, trainer), turns.environment, turns.most, trainer.has_room)

    # ---- score -------------------------------------------------------------------------------------------
    def score(self, talks: Conversations, greedy: Samples | None = None) -> Scored:
        """The responses that can be trained on: those whose return is known, in groups that are not too small then.

        A group are the responses to a prompt, and of later turns those whose conversations began with one. Greedy
        responses are scored and shaped together with the samples, so that both are on one scale.
        """
        aim, samples, count = self.objective, talks.samples, len(talks.samples.responses)
        found = Scorer(aim.score, aim.shaping, self.ends, aim.abstains, aim.fallback)(
            samples if greedy is None else samples + greedy
        )
        answered = sum(place < count for place in found.places)
        if aim.turns:
            found = with_later_turns(found, talks, aim.turns.discount)
        scores = found.scores.tolist()
        baseline = {place - count: scores[row] for row, place in enumerate(found.places) if place >= count}
        groups = talks.groups(self.group)
        prompt = {row: groups[place] for row, place in enumerate(found.places) if place < count}
        paired = prompt if greedy is None else {row: i for row, i in prompt.items() if i in baseline}
        sizes = Counter(paired.values())
        kept = {row: i for row, i in paired.items() if sizes[i] >= aim.advantage.min_group}
        taken, device = samples.take([found.places[row] for row in kept]), self.models.policy.device
        rewards = found.take(list(kept), max(map(len, taken.response_ids), default=0)).to(device)
        group = torch.tensor(list(kept.values()), device=device)
        return Scored(
            samples=taken,
            rewards=rewards,
            group=group,
            unlearned=unlearned(rewards, group, self._truncated(taken), aim.keeps_equal),
            baseline=None if greedy is None else torch.tensor([baseline[i] for i in kept.values()], device=device),
            within_groups=aim.compares_groups_alone,
            sampled=talks.count,
            left_out={
                "abstained": count - answered,
                "abstained_later": answered - len(prompt),
                "without_baseline": len(prompt) - len(paired),
                "too_few_siblings": len(paired) - len(kept),
            },
        )

    def _truncated(self, samples: Samples) -> Tensor | None:
        """Which responses did not end by themselves, (B,) bool; None where these are learned from as any other."""
        if self.objective.keeps_truncated:
            return None
        ended = [ids[-1] in self.ends for ids in samples.response_ids]
        return ~torch.tensor(ended, dtype=torch.bool, device=self.models.policy.device)

    # ---- outputs, advantages, minibatches ----------------------------------------------------------------
    def experience(self, scored: Scored, kl_coef: float) -> Experience:
        """What training needs of the responses, with the KL term at this coefficient."""
        aim, rewards = self.objective, scored.rewards
        minibatches = self._minibatches(scored)
        steps = [rows for minibatch in minibatches for rows in self._steps(minibatch)]
        with gathered(self.models.policy):
            others = (~scored.learned).nonzero().flatten()
            parts, batches, computed = in_parts.computed(self, scored.samples, steps, others)
        tokens = in_parts.joined(
            [each.rows for each in batches], [found for found, _ in computed], self.models.policy.device
        )
        mask, values, reference = tokens["mask"].bool(), tokens.get("values"), tokens.get("reference")
        token_rewards, penalty = rewards.token_rewards, None
        if aim.kl is not None and reference is not None:
            penalty = aim.kl(tokens["policy"] - reference).off_reward
        if penalty is not None:
            token_rewards = (token_rewards - kl_coef * penalty).masked_fill(~mask, 0.0)
        estimate = self._advantages(
            Rollout(rewards.scores, token_rewards, values, mask, scored.group, tokens["policy"], scored.baseline)
        )
        first = computed[0][1] if computed else None
        if self.models.critic and values is not None and not scored.equal_rewards:
            values = self.models.critic.learn(values, estimate.returns, mask)
            first = first and self.models.valued_again(first, batches[0].batch)
        return Experience(
            samples=scored.samples,
            rewards=rewards,
            group=scored.group,
            equal_rewards=scored.equal_rewards,
            kl_coef=kl_coef,
            mask=mask,
            policy=tokens["policy"],
            log_probs=tokens["log_probs"],
            reference=reference,
            entropies=tokens["entropies"],
            values=values,
            value_unit=self.models.critic.head.unit if self.models.critic else None,
            token_rewards=token_rewards,
            advantages=estimate.advantages,
            returns=estimate.returns,
            token_weights=token_weights(minibatches, mask),
            loss_weights=self._loss_weights(minibatches, mask),
            steps=tuple(steps),
            parts=parts,
            first=first,
        )

    def _loss_weights(self, minibatches: Sequence[Tensor], mask: Tensor) -> Tensor | None:
        if self.objective.alike:
            return weights_alike(minibatches, mask)
        return None if self.cut.whole else loss_weights(minibatches, mask, self.objective.reduction)

    def _minibatches(self, scored: Scored) -> list[Tensor]:
        """The rows of each optimizer step's minibatch: groups or rows in random order, in nearly equal parts."""
        count = -(-scored.sampled // (self.cut.size * self.cut.accumulation * processes.count()))
        rows = scored.learned.nonzero().flatten()
        if not self.cut.keeps_groups:  # with the random numbers that TRL draws
            return list(rows[torch.randperm(len(rows))].tensor_split(count))
        sizes = Counter(scored.group[rows].tolist())  # in the order of sampling
        groups = rows.split(list(sizes.values()))
        order = [groups[i] for i in processes.from_main(torch.randperm(len(sizes)).tolist())]
        return list(torch.cat([rows[:0], *order]).tensor_split(count))

    def _steps(self, minibatch: Tensor) -> list[Tensor]:
        """The rows of each training step of a minibatch."""
        count = self.cut.accumulation
        rows = [minibatch, *[minibatch[:0]] * (count - 1)] if self.cut.whole else list(minibatch.tensor_split(count))
        if not self.cut.keeps_groups:  # neighbours share their prompt
            rows = [each.sort().values for each in rows]
        return rows

    def parts(self, samples: Samples, steps: Sequence[Tensor]) -> tuple[tuple[MicroBatch, ...], ...]:
        """The micro-batches of this process in each training step; one without responses has none.

        Of several processes each has one at least, where any response is learned from: they average gradients together.
        """
        several, minibatch = processes.count() > 1, self.cut.accumulation
        found = []
        for place, rows in enumerate(steps):
            own = self.micro_batches(samples, rows[processes.share(len(rows))])
            first = place - place % minibatch
            others = torch.cat(list(steps[first : first + minibatch]))
            if several and not own and len(others):
                filler = self.micro_batches(samples, others[:1])
                own = [replace(one, counts=False) for one in filler]
            found.append(tuple(evened(own, lambda last: replace(last, counts=False))))
        return tuple(found)

    def micro_batches(self, samples: Samples, rows: Tensor) -> list[MicroBatch]:
        """These rows (b,) of the samples, in order."""
        if not len(rows):
            return []
        taken = samples.take(rows.tolist())
        batches = self.models.batches(taken.prompt_ids, taken.response_ids, self.cut.tokens)
        each = rows.to(self.models.policy.device).split([len(batch.index) for batch in batches])
        return [MicroBatch(*both) for both in zip(each, batches, strict=True)]

    def compute(self, batch: BranchBatch, keep: bool) -> tuple[TokenTensors, Outputs | None]:
        """Policy, critic and reference outputs for a micro-batch, laid out as in training: first ratios are exactly 1.

        The second are the outputs of policy and critic with their graph, where `keep` asks for them.
        """
        explore = self.objective.exploration
        reference = None if self.objective.kl is None else self.models.reference_log_probs(batch)
        with torch.set_grad_enabled(keep):
            outputs = self.models.outputs(batch, entropy=True)
        assert outputs.entropies is not None  # they were asked for
        policy = outputs.log_probs.detach()
        found = {
            "mask": batch.response_mask().float(),
            "policy": policy,
            "log_probs": policy if explore is None else self.models.explored_log_probs(batch, policy, explore),
            "entropies": outputs.entropies.detach(),
        }
        values = None if outputs.values is None else outputs.values.detach()
        more = {"reference": reference, "values": values}
        known = {name: tensor for name, tensor in more.items() if tensor is not None}
        return found | known, outputs if keep else None

    def _advantages(self, rollout: Rollout) -> Advantages:
        estimate = self.objective.advantage(rollout)
        if not self.objective.advantage.whitens:
            return estimate
        return Advantages(masked.whiten(estimate.advantages, rollout.mask), estimate.returns)
