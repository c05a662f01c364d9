"""Trains a policy on its own samples: GRPOTrainer with its rollout, forward pass and loss replaced.

TRL keeps the sampling of prompts, the generation and the schedule of minibatches; the arithmetic is `objectives`'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase

from rlhf_plugins import masked, objectives
from rlhf_plugins.data.branches import BranchBatch, by_prompt, collate
from rlhf_plugins.errors import RunError
from rlhf_plugins.interfaces import RewardFunction, Samples
from rlhf_plugins.models.folding import folded
from rlhf_plugins.models.forward import ResponseLogps, response_logps, spread, takes_shared_rows, trunk_of
from rlhf_plugins.models.guards import estimated, named, rewarded
from rlhf_plugins.models.sampling import Decoding, sample
from rlhf_plugins.rollout import Advantage, Advantages, Rollout
from rlhf_plugins.trainers.arguments import finite, trainable


@dataclass(frozen=True)
class Coefficients:
    """What weighs the terms of PPO; defaults of Huang et al. 2024 ("The N+ implementation details of RLHF")."""

    kl: float = 0.05  # reward per nat of log pi - log pi_ref
    value: float = 0.1
    value_clip: float = 0.2
    entropy: float = 0.0
    missing_eos: float = 1.0  # taken off the score of a response that did not end by itself


@dataclass(frozen=True)
class Objective:
    """What the policy is to maximise, and how its advantage is estimated."""

    score: RewardFunction
    advantage: Advantage
    coefficients: Coefficients = Coefficients()


@dataclass(frozen=True)
class Experience:
    """One rollout as minibatches need it: ids by sample, tensors (B, T) from each response's start."""

    prompt_ids: list[list[int]]
    response_ids: list[list[int]]
    log_probs: Tensor
    values: Tensor | None
    advantages: Tensor
    returns: Tensor


class OnlineTrainer(trl.GRPOTrainer):
    """GRPOTrainer as PPO with a value head on the policy's own decoder.

    The reference is the policy with its adapter off, or `reference` where all weights are trained.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        args: trl.GRPOConfig,
        train: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        adapter: LoraConfig | None = None,
        reference: Any = None,
    ) -> None:
        super().__init__(
            model=model,
            reward_funcs=lambda **_: [],  # TRL asks for one; `_roll_out` calls `score` itself
            args=args,
            train_dataset=train,
            processing_class=tokenizer,
            peft_config=adapter,
        )
        trainable(self)
        self._score, self._advantage = objective.score, objective.advantage
        self._refuse_lone_responses()
        self._coefficients = objective.coefficients
        self._reference, self._shared = reference, takes_shared_rows(self.model)
        self._minibatches: list[dict[str, Tensor]] = []
        if self._advantage.needs_values:
            self.model.value_head = self._new_value_head()

    def take_value_head(self) -> nn.Linear | None:
        """Takes the value head off the policy, which then is a plain model again; None if no critic was trained."""
        if not self._advantage.needs_values:
            return None
        head: nn.Linear = self.model.value_head
        del self.model.value_head
        return head

    def _refuse_lone_responses(self) -> None:
        fewest = getattr(self._advantage, "min_group", 1)
        if self.num_generations < fewest:
            raise RunError(
                f"{named(self._advantage)} compares the responses to a prompt: num_generations is "
                f"{self.num_generations}, and it needs {fewest} or more"
            )

    def _new_value_head(self) -> nn.Linear:
        """Value of the state before a token, from the hidden state that predicts it; starts at 0."""
        head = nn.Linear(trunk_of(self.model).config.get_text_config().hidden_size, 1)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return head.to(self.accelerator.device)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Rolls out once a generation cycle and hands out its minibatches in turn."""
        position = self._step % (self.args.steps_per_generation * self.num_iterations)
        if position == 0 or not self._minibatches:
            self._minibatches = self._split(self._roll_out([row["prompt"] for row in generation_batch]))
        return self._minibatches[position % self.args.steps_per_generation]

    def _roll_out(self, prompts: list[Any]) -> Experience:
        samples = self._sample(prompts)
        log_probs, log_ratio, mask, *critic = self._look_at(samples)
        values = critic[0] if critic else None
        scores = self._scores(samples)
        rewards = objectives.penalised_rewards(scores, log_ratio, mask, self._coefficients.kl)
        group = torch.arange(len(scores), device=scores.device) // self.num_generations
        baseline = self._greedy_scores(samples.prompts) if getattr(self._advantage, "needs_baseline", False) else None
        estimate = self._estimate(Rollout(scores, rewards, values, mask, group, log_probs, baseline))
        self._record_rollout(scores, log_ratio, values, estimate, mask)
        whiten = getattr(self._advantage, "whiten", True)
        advantages = masked.whiten(estimate.advantages, mask) if whiten else estimate.advantages
        ids = [list(i) for i in samples.prompt_ids], [list(i) for i in samples.response_ids]
        return Experience(*ids, log_probs, values, advantages, estimate.returns)

    def _greedy_scores(self, prompts: Sequence[Any]) -> Tensor:
        """Score of the policy's greedy response to each prompt, (B,); each group's prompt is answered once."""
        alone = prompts[:: self.num_generations]
        greedy = Decoding(self.max_completion_length, temperature=0.0)
        scores = self._scores(sample(self.model, self._tokenizer, alone, decoding=greedy))
        return scores.repeat_interleave(self.num_generations)

    def _look_at(self, samples: Samples) -> tuple[Tensor, ...]:
        """Log-probabilities, log-ratios to the reference, mask and, with a critic, values of all samples, each (B, T).

        A minibatch's worth of samples is computed at a time, so that a rollout needs no more memory than training.
        """
        size, seen = self.args.per_device_train_batch_size, []
        longest = max(map(len, samples.response_ids))
        for start in range(0, len(samples.responses), size):
            window = slice(start, start + size)
            batch = self._batch(samples.prompt_ids[window], samples.response_ids[window])
            mask = batch.response_mask()
            with torch.no_grad(), self.accelerator.autocast():
                policy = response_logps(self.model, batch, self.temperature)
                parts = [policy.logps, policy.logps - self._reference_logps(batch), mask, *self._values(policy, mask)]
            seen.append([pad(part, (0, longest - part.shape[1])) for part in parts])
        return tuple(torch.cat(parts) for parts in zip(*seen, strict=True))

    def _sample(self, prompts: list[Any]) -> Samples:
        with folded(self.model):
            prompt_ids, response_ids, _, completions, *_ = self._generate(prompts)
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        return Samples(prompts, texts, prompt_ids, response_ids)

    def _scores(self, samples: Samples) -> Tensor:
        scores = rewarded(self._score, samples).to(self.accelerator.device)
        unended = [ids[-1] not in self.eos_token_ids for ids in samples.response_ids]
        return scores - self._coefficients.missing_eos * torch.tensor(unended, device=scores.device)

    def _estimate(self, rollout: Rollout) -> Advantages:
        estimate = estimated(self._advantage, rollout)
        finite(estimate.advantages.sum() + estimate.returns.sum(), self.state.global_step, named(self._advantage))
        return estimate

    def _batch(self, prompt_ids: Any, response_ids: Any) -> BranchBatch:
        groups = by_prompt(prompt_ids, response_ids)
        inputs = collate(groups, self._tokenizer.pad_token_id, self._shared)
        return BranchBatch.from_inputs({k: v.to(self.accelerator.device) for k, v in inputs.items()})

    def _values(self, policy: ResponseLogps, mask: Tensor) -> list[Tensor]:
        """The values (B, T); nothing where no critic is trained."""
        if not self._advantage.needs_values:
            return []
        return [spread(self.model.value_head(policy.hidden.float()).squeeze(-1), mask)]

    def _reference_logps(self, batch: BranchBatch) -> Tensor:
        if self._reference is not None:
            return response_logps(self._reference, batch, self.temperature).logps
        with self.model.disable_adapter():
            return response_logps(self.model, batch, self.temperature).logps

    def _split(self, experience: Experience) -> list[dict[str, Tensor]]:
        """Minibatches of whole samples, the prompts' groups in random order and unbroken."""
        count, size = len(experience.prompt_ids), self.args.per_device_train_batch_size
        groups = torch.arange(count).split(self.num_generations)
        order = torch.cat([groups[i] for i in torch.randperm(len(groups)).tolist()])
        return [self._minibatch(experience, rows) for rows in order.split(size)]

    def _minibatch(self, experience: Experience, rows: Tensor) -> dict[str, Tensor]:
        picked = rows.tolist()
        batch = self._batch([experience.prompt_ids[i] for i in picked], [experience.response_ids[i] for i in picked])
        length = int(batch.lengths.max())
        names = ["log_probs", "advantages", "returns", *["values"] * (experience.values is not None)]
        rows = rows.to(self.accelerator.device)
        tensors = {name: getattr(experience, name)[rows, :length] for name in names}
        return {**{name: getattr(batch, name) for name in batch.__dataclass_fields__}, **tensors}

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """PPO's loss of a minibatch: clipped policy, clipped value and entropy terms, each a mean over tokens."""
        batch = BranchBatch.from_inputs(inputs)
        mask, weigh = batch.response_mask(), self._coefficients
        with self.accelerator.autocast():
            policy = response_logps(self.model, batch, self.temperature, entropy=True)
            critic = self._values(policy, mask)
        log_ratio = policy.logps - inputs["log_probs"]
        per_token = objectives.clipped_policy_loss(log_ratio, inputs["advantages"], self.epsilon_low)
        assert policy.entropies is not None  # they were asked for
        entropy = masked.mean(policy.entropies, mask)
        loss = masked.mean(per_token, mask) - weigh.entropy * entropy
        for values in critic:
            errors = objectives.clipped_value_loss(values, inputs["values"], inputs["returns"], weigh.value_clip)
            value_loss = masked.mean(errors, mask)
            loss = loss + weigh.value * value_loss
            self._record(value_loss=value_loss)
        clipped = ((log_ratio.exp() - 1).abs() > self.epsilon_low).float()
        self._record(entropy=entropy, clip_fraction=masked.mean(clipped, mask))
        return finite(loss, self.state.global_step, "PPO loss") / self.current_gradient_accumulation_steps

    def _record_rollout(
        self, scores: Tensor, log_ratio: Tensor, values: Tensor | None, estimate: Advantages, mask: Tensor
    ) -> None:
        if values is not None:
            unexplained = masked.variance(estimate.returns - values, mask)
            explained = 1 - unexplained / masked.variance(estimate.returns, mask).clamp(min=1e-8)
            self._record(explained_variance=explained)
        kl = objectives.kl_estimate(log_ratio, mask)
        self._record(reward=scores.mean(), kl=kl, length=mask.sum(1).float().mean())

    def _record(self, **values: Tensor) -> None:
        for name, value in values.items():
            self._metrics["train"][name].append(value.item())
