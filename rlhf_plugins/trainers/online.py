"""Trains a policy on its own samples: GRPOTrainer with its rollout, forward pass and loss replaced.

TRL samples the prompts, generates, and schedules the minibatches; the arithmetic is in the components.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from numbers import Real
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_plugins.arithmetic import objectives
from rlhf_plugins.contract.guards import named
from rlhf_plugins.contract.interfaces import KL, Advantage, PolicyLoss, Reduction
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rollout import ScoredResponses
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Alarm, Step
from rlhf_plugins.data.branches import BranchBatch
from rlhf_plugins.data.groups import COLUMNS, batch_columns
from rlhf_plugins.engine import cost
from rlhf_plugins.engine.cost import counting
from rlhf_plugins.engine.cpu.decoding import own_decoding_loop
from rlhf_plugins.engine.cpu.folding import folded
from rlhf_plugins.engine.sampling import Decoding, sample, without_generation_defaults
from rlhf_plugins.errors import PluginError, RunError
from rlhf_plugins.trainers.arguments import not_finite, prepare
from rlhf_plugins.trainers.critic import Critic
from rlhf_plugins.trainers.episodes import Episodes, MicroBatch, Minibatch, ScoredSamples
from rlhf_plugins.trainers.exploration import exploring
from rlhf_plugins.trainers.micro_batches import token_limit
from rlhf_plugins.trainers.monitoring import Monitors, scale_learning_rate
from rlhf_plugins.trainers.passes import Outputs, Passes
from rlhf_plugins.trainers.rollout_log import RolloutLog, limits, responses
from rlhf_plugins.trainers.rollouts import Rollouts
from rlhf_plugins.trainers.scoring import Scorer
from rlhf_plugins.trainers.settings import PLAIN, Exploration, Oversight, Value
from rlhf_plugins.trainers.shares import Share, adds_up, shares


@dataclass(frozen=True)
class Objective:
    """What the policy maximises, as built components and numbers."""

    score: Callable[[Samples], Prediction]
    advantage: Advantage
    policy_loss: PolicyLoss
    reduction: Reduction
    kl: KL
    shaping: Sequence[Callable[[ScoredResponses], Tensor]] = ()
    value: Value = Value()
    entropy_coef: float = 0.0  # Huang et al. 2024
    stop_kl: float | None = None  # nats per token
    exploration: Exploration | None = None
    abstains: bool = True  # whether the reward may abstain; the responses are then left out
    fallback: Callable[[Samples], Prediction] | None = None  # scores the responses for which `score` abstains


@dataclass(frozen=True)
class OnlineOptions:
    """Options of a training that TRL's configuration lacks.

    Without a `reference`, the policy with its adapters off is the reference.
    """

    reference: Any = None  # where all weights are trained
    tokens_per_batch: int | None = None  # most tokens in memory at once, padding included
    oversight: Oversight = Oversight()


class OnlineTrainer(trl.GRPOTrainer):
    """GRPOTrainer for an objective, with a critic where its estimator needs one.

    A minibatch of more than `options.tokens_per_batch` tokens is computed in micro-batches, with the same gradients,
    unless a component needs it whole (`micro_batches.token_limit`, `shares.adds_up`).

    Raises:
        RunError: the options contradict one another, or (while training) a monitor stops it, the reward abstains and
            must not, or the chat template refuses a prompt.
        PluginError: a component fails.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        args: trl.GRPOConfig,
        train: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        options: OnlineOptions = OnlineOptions(),  # noqa: B008 (frozen)
    ) -> None:
        _refuse(objective, args)
        super().__init__(
            model=model,
            reward_funcs=lambda **_: [],  # TRL needs one; `Scorer` calls the reward
            args=args,
            train_dataset=train,
            processing_class=tokenizer,
        )
        prepare(self)
        self._objective, self._reference = objective, options.reference
        folder, oversight = Path(args.output_dir), options.oversight
        self._rollout_log = RolloutLog(folder, oversight.table, oversight.gold, oversight.listen)
        self.monitors = oversight.monitors or Monitors(folder=folder)
        self._critic = Critic(self.model, objective.value.adapter) if objective.advantage.reads_values else None
        self._passes = Passes(
            model=self.model,
            reference=options.reference,
            critic=self._critic,
            pad_id=self._tokenizer.pad_token_id,
            temperature=self.temperature,
            autocast=self.accelerator.autocast,
        )
        self._rollouts = self._plan(options.tokens_per_batch)
        self._kl_coef = self._next_kl_coef = objective.kl.coef
        self._outputs: Outputs | None = None  # of the only micro-batch of a rollout, until its first loss used them
        self._columns: dict[str, list[Any]] = {}  # of this rollout's prompts, a value for each response
        self._episodes: Episodes | None = None  # None: the rest of this rollout's minibatches are skipped
        self._skips: list[float] = []  # of each minibatch so far: 1 where it was skipped
        self._updates: dict[str, list[float]] = defaultdict(list)  # numbers of the minibatches since the last rollout

    def take_value_head(self) -> dict[str, Tensor]:
        """Removes the value head from the policy and returns its weights; empty if no critic was trained."""
        return self._critic.take_off() if self._critic else {}

    @property
    def rollouts_shown(self) -> list[dict[str, Any]]:
        """Responses from the beginning and the end of the training, with their step and numbers."""
        return self._rollout_log.shown

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains. Raises RunError for a checkpoint to go on from, which holds neither rollout nor critic."""
        if resume_from_checkpoint:
            raise RunError(
                "a training on a policy's own samples cannot go on from a checkpoint, which holds neither the rollout "
                "in use, nor the critic, nor what the reward was normalised by; start the stage again"
            )
        with counting() as self.monitors.counter:
            return super().train(None, *args, **kwargs)

    def _plan(self, tokens: int | None) -> Rollouts:
        aim = self._objective
        tokens = token_limit(tokens, self.args, aim.policy_loss, aim.reduction, aim.kl)
        scorer = Scorer(aim.score, aim.shaping, frozenset(self.eos_token_ids), aim.abstains, aim.fallback)
        return Rollouts(
            sample=self._sample,
            greedy=self._greedy,
            passes=self._passes,
            scorer=scorer,
            advantage=aim.advantage,
            kl=aim.kl,
            exploration=aim.exploration,
            group=self.num_generations,
            size=self.args.per_device_train_batch_size,
            tokens=tokens if tokens and adds_up(aim.reduction) else None,
        )

    def _sample(self, prompts: Sequence[Any]) -> Samples:
        own_distribution = without_generation_defaults(self.model)
        exploration = exploring(self.model, self._objective.exploration, self.temperature)
        try:
            with folded(self.model), own_distribution, own_decoding_loop(self.model), exploration:
                prompt_ids, response_ids, _, completions, *_ = self._generate(list(prompts))
        except TemplateError as error:
            raise RunError(f"the chat template refuses a prompt of this rollout: {error}") from error
        cost.add(generated_tokens=sum(map(len, response_ids)))
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        return Samples(prompts, texts, prompt_ids, response_ids, self._columns)

    def _greedy(self, prompts: Sequence[Any]) -> Samples:
        decoding = Decoding(self.max_completion_length, temperature=0.0)
        columns = {name: values[:: self.num_generations] for name, values in self._columns.items()}
        return replace(sample(self.model, self._tokenizer, prompts, decoding=decoding), columns=columns)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns: list[str] = [*{*self._signature_columns, COLUMNS}]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Makes a rollout once a generation cycle; a skipped minibatch changes no gradients and no weights."""
        if self._place() == 0:
            self.model.train()
            self._columns = batch_columns(inputs)
            self._episodes = self._roll_out([row["prompt"] for row in inputs])
        trains = self._episodes is not None and bool(self._minibatch(self._episodes).micro_batches)
        self._skips.append(float(not trains))
        self._note(skipped=self._skips[-1])
        if trains:
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
            self._updates["loss"].append(loss.item() * self.current_gradient_accumulation_steps)
            return loss
        self._step += 1
        return torch.zeros((), device=self.accelerator.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs; a loss is the mean over the minibatches that were trained on, and left out where there was none."""
        for name, skips in (("loss", self._metrics["train"].get("skipped", [])), ("train_loss", self._skips)):
            trained = skips.count(0.0)
            if name in logs and trained < len(skips):
                mean = logs.pop(name) * len(skips)
                logs |= {name: mean / trained} if trained else {}
        super().log(logs, start_time)

    def _place(self) -> int:
        """Which minibatch of the generation cycle this is, from 0."""
        place: int = self._step % (self.args.steps_per_generation * self.num_iterations)
        return place

    def _prepare_inputs(self, inputs: Any) -> Minibatch:
        """The next minibatch; `inputs`, from TRL's loader, are the prompts of the whole rollout."""
        assert self._episodes is not None
        return self._minibatch(self._episodes)

    def _minibatch(self, episodes: Episodes) -> Minibatch:
        return episodes.minibatches[self._place() % self.args.steps_per_generation]

    def _roll_out(self, prompts: Sequence[Any]) -> Episodes | None:
        """A rollout to train on; None where nothing can be learned from it.

        Raises:
            RunError: a monitor stops the training.
        """
        self._kl_coef, step = self._next_kl_coef, self.state.global_step
        scored = self._rollouts.score(prompts)
        numbers = {"kl_coef": self._kl_coef, **_missing(scored)}
        if not scored.samples.responses:
            self._note(**numbers)
            values = {**numbers, "equal_rewards": 1.0, "learning_rate": self._learning_rate}
            self._show(Step("", step, self.state.max_steps, values))
            return None
        rollout = self._rollouts.episodes(scored, self._kl_coef)
        numbers |= self._rollout_log.add(rollout, step)
        self._note(**numbers)
        self._next_kl_coef = _adapted(self._objective.kl, self._kl_coef, numbers["kl"], len(rollout.mask))
        self._show(self._step_of(rollout, numbers))
        if rollout.equal_rewards:
            return None
        self._outputs = rollout.outputs
        return replace(rollout, outputs=None)

    def _step_of(self, rollout: Episodes, numbers: Mapping[str, float]) -> Step:
        """A rollout as monitors see it: its numbers, and the means of those of the updates since the last rollout."""
        updates = {name: sum(values) / len(values) for name, values in self._updates.items()}
        self._updates.clear()
        if "loss" in updates:
            updates["loss"] += sum(value for name, value in updates.items() if name.startswith("regularizer/"))
        return Step(
            stage="",
            step=self.state.global_step,
            total=self.state.max_steps,
            values={**updates, **numbers, **limits(rollout), "learning_rate": self._learning_rate},
            samples=rollout.samples,
            prediction=rollout.rewards.prediction,
            responses=responses(rollout),
        )

    def _show(self, step: Step) -> None:
        """Shows a rollout to the monitors; what they do to the KL coefficient holds from the next rollout on."""

        def scale_kl(factor: float) -> None:
            self._next_kl_coef *= factor

        self.monitors.show(step, {"scale_lr": lambda f: scale_learning_rate(self, f), "scale_kl": scale_kl})

    def _policy_outputs(self, batch: BranchBatch) -> Outputs:
        """Policy and critic outputs for a micro-batch; those of a rollout's only one were computed with the rollout."""
        outputs, self._outputs = self._outputs, None
        return outputs or self._passes.policy(batch, entropy=self._objective.entropy_coef > 0)

    def _compute_loss(self, model: Any, inputs: Minibatch) -> Tensor:
        """The minibatch's loss; gradients of all its micro-batches but the last are accumulated here."""
        masks = [part.batch.response_mask() for part in inputs.micro_batches]
        logged, loss = list[dict[str, float]](), torch.zeros(())
        for part, share in zip(inputs.micro_batches, shares(masks, self._objective.reduction), strict=True):
            if loss.requires_grad:
                self.accelerator.backward(loss)
            own, numbers = self._part(part, share)
            loss = own / self.current_gradient_accumulation_steps + loss.detach()
            logged.append(numbers)
        whole = {name: sum(part[name] for part in logged) for name in logged[0]}
        self.note_update(whole)
        if self._objective.stop_kl is not None and whole["approx_kl"] > self._objective.stop_kl:
            self._episodes = None  # the policy moved too far: the rest of the rollout is skipped
        return loss

    def _part(self, part: MicroBatch, share: Share) -> tuple[Tensor, dict[str, float]]:
        """The loss of a micro-batch with its KL, value and entropy terms, and numbers, as parts of the minibatch's.

        Raises:
            RunError: the loss is not finite.
        """
        aim, mask = self._objective, part.batch.response_mask()
        outputs = self._policy_outputs(part.batch)
        log_ratio = outputs.log_probs - part.log_probs
        losses = aim.policy_loss(log_ratio, part.advantages)
        kl_term = aim.kl(outputs.log_probs - part.reference).on_loss
        loss = share.reduced(losses if kl_term is None else losses + self._kl_coef * kl_term, mask)
        clipped = (losses != -part.advantages * log_ratio.exp()).float()
        numbers = {
            "policy_loss": loss,
            "clip_fraction": share.mean(clipped, mask),
            "approx_kl": share.tokens * objectives.moved(log_ratio.detach(), mask),
        }
        if aim.entropy_coef and outputs.entropies is not None:
            loss = loss - aim.entropy_coef * share.mean(outputs.entropies, mask)
        if outputs.values is not None and part.values is not None:
            errors = objectives.clipped_value_loss(outputs.values, part.values, part.returns, aim.value.clip)
            numbers["value_loss"] = share.mean(errors, mask)
            loss = loss + aim.value.coef * numbers["value_loss"]
        if not loss.isfinite():
            self._stop_at(loss, part)
        return loss, {name: value.item() for name, value in numbers.items()}

    def _stop_at(self, loss: Tensor, part: MicroBatch) -> None:
        """Ends the training for a loss that is not finite. Raises RunError."""
        assert self._episodes is not None
        step = self._step_of(self._episodes, {})
        message = not_finite("the loss", loss)
        evidence = {"responses": step.shown(part.rows.tolist())}
        self.monitors.stop("finite", Alarm(message, evidence, action="stop"), step.step)

    def note_update(self, numbers: Mapping[str, float]) -> None:
        """Logs numbers of an update, and keeps them for the monitors."""
        self._note(**numbers)
        for name, value in numbers.items():
            self._updates[name].append(value)

    @property
    def _learning_rate(self) -> float:
        """Of the next optimizer step."""
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    def _note(self, **numbers: Tensor | float) -> None:
        for name, value in numbers.items():
            self._metrics["train"][name].append(float(value.detach() if isinstance(value, Tensor) else value))


def _adapted(term: KL, coef: float, kl: float, episodes: int) -> float:
    """The next coefficient. Raises PluginError if it is no finite number of 0 or more."""
    found = term.adapted(coef, kl, episodes)
    if not (isinstance(found, Real) and 0 <= found < inf):
        raise PluginError(f"{named(term)} adapted its coefficient to {found!r}, not to a finite number of 0 or more")
    return float(found)


def _missing(scored: ScoredSamples) -> dict[str, float]:
    """The numbers of responses that are left out, where the reward abstained on any."""
    left_out = {
        "abstained": scored.abstained,
        "without_baseline": scored.without_baseline,
        "too_few_siblings": scored.too_few,
    }
    return {name: float(count) for name, count in left_out.items() if count}


def _refuse(objective: Objective, args: trl.GRPOConfig) -> None:
    """Raises RunError for options that contradict one another."""
    estimator = objective.advantage
    fewest = estimator.min_group
    if args.num_generations < fewest:
        raise RunError(
            f"{named(estimator)} compares the responses to a prompt: num_generations is {args.num_generations}, "
            f"and it needs {fewest} or more"
        )
    cut = [name for name, value in PLAIN.items() if getattr(args, name) != value]
    if objective.exploration and cut:
        raise RunError(
            f"exploration: with {cut[0]} responses would not be sampled from the mixture; leave {cut[0]} out"
        )
