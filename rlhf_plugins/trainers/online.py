"""Trains a policy on its own samples: GRPOTrainer with its rollout, forward pass and loss replaced.

TRL samples the prompts, generates, and schedules the training steps; `ppo` makes rollouts and computes losses, and the
arithmetic is in the components.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from numbers import Real
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_plugins.contract.guards import named
from rlhf_plugins.contract.interfaces import KL
from rlhf_plugins.contract.run import Alarm, Step
from rlhf_plugins.data.groups import COLUMNS, batch_columns
from rlhf_plugins.engine.cost import counting
from rlhf_plugins.errors import PluginError, RunError
from rlhf_plugins.trainers.arguments import not_finite, prepare
from rlhf_plugins.trainers.micro_batches import token_limit
from rlhf_plugins.trainers.monitoring import Monitors, scale_learning_rate
from rlhf_plugins.trainers.ppo import oversight, step
from rlhf_plugins.trainers.ppo.critic import Critic
from rlhf_plugins.trainers.ppo.models import Models, Outputs, without_dropout
from rlhf_plugins.trainers.ppo.options import PLAIN, Objective, OnlineOptions
from rlhf_plugins.trainers.ppo.rollout import Cut, Experience, MicroBatch, Rollouts

SCALES = ("scale_lr", "scale_kl")  # what an alarm may scale


class OnlineTrainer(trl.GRPOTrainer):
    """GRPOTrainer for an objective, with a critic where its estimator needs one.

    A minibatch is what one optimizer step learns from: `gradient_accumulation_steps` training steps, each of which is
    computed in micro-batches of at most `options.tokens_per_batch` tokens. Neither changes the gradient; where a
    component needs a minibatch whole, its first training step computes all of it.

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
            reward_funcs=lambda **_: [],  # TRL needs one; `ppo.scoring` calls the reward
            args=args,
            train_dataset=train,
            processing_class=tokenizer,
        )
        prepare(self)
        without_dropout(self.model, args.disable_dropout)
        watch, folder = options.oversight, Path(args.output_dir)
        self.monitors = watch.monitors or Monitors(folder=folder)
        self._objective, self._kl_coef = objective, objective.kl.coef  # of the next rollout
        self._log = oversight.RolloutLog(folder, watch.table, watch.gold, watch.listen)
        self._critic = Critic(self.model, objective.value.adapter) if objective.advantage.reads_values else None
        self._models = Models(
            policy=self.model,
            reference=options.reference,
            critic=self._critic,
            pad_id=self._tokenizer.pad_token_id,
            temperature=self.temperature,
            accelerator=self.accelerator,
        )
        ends = frozenset(self.eos_token_ids)
        self._rollouts = Rollouts(objective, self._models, ends, self.num_generations, self._cut(options))
        self._experience: Experience | None = None  # None: the rest of the rollout's training steps are skipped
        self._trains = False  # whether this optimizer step has anything to learn from
        self._step_numbers: dict[str, float] = defaultdict(float)  # sums over this optimizer step so far
        self._updates: dict[str, list[float]] = defaultdict(list)  # numbers of the updates since the last rollout
        self._skips: list[float] = []  # of each optimizer step so far: 1 where it was skipped

    def _cut(self, options: OnlineOptions) -> Cut:
        aim, args = self._objective, self.args
        parts = aim.policy_loss, aim.reduction, aim.kl
        whole = any(part.uses_batch_mates for part in parts) or not step.adds_up(aim.reduction)
        tokens = None if whole else token_limit(options.tokens_per_batch, args)
        return Cut(args.per_device_train_batch_size, args.gradient_accumulation_steps, tokens, whole)

    def take_value_head(self) -> dict[str, Tensor]:
        """Removes the value head from the policy and returns its weights; empty if no critic was trained."""
        return self._critic.take_off() if self._critic else {}

    @property
    def rollouts_shown(self) -> list[dict[str, Any]]:
        """Responses from the beginning and the end of the training, with their step and numbers."""
        return self._log.shown

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains. Raises RunError for a checkpoint to go on from, which holds neither rollout nor critic."""
        if resume_from_checkpoint:
            raise RunError(
                "a training on a policy's own samples cannot go on from a checkpoint, which holds neither the rollout "
                "in use, nor the critic, nor what the reward was normalised by; start the stage again"
            )
        with counting() as self.monitors.counter:
            return super().train(None, *args, **kwargs)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Makes a rollout once a generation cycle, and computes a training step's share of a minibatch.

        A skipped minibatch changes no gradients and no weights.
        """
        place, steps = self._place(), self.args.gradient_accumulation_steps
        if place == 0:
            self.model.train()
            self._experience = self._roll_out([row["prompt"] for row in inputs], batch_columns(inputs))
        if place % steps == 0:
            self._trains = any(self._part(each) for each in range(place, place + steps))
            self._skips.append(float(not self._trains))
            self._note(skipped=self._skips[-1])
        if not self._part(place):
            self._step += 1
            loss = torch.zeros((), device=self.accelerator.device)
        else:
            loss = super().training_step(model, inputs, num_items_in_batch)
        if (place + 1) % steps == 0 and self._trains:
            self._end_step()
        return loss

    def _place(self) -> int:
        """Which training step of the generation cycle this is, from 0."""
        place: int = self._step % (self.args.steps_per_generation * self.num_iterations)
        return place

    def _part(self, place: int) -> tuple[MicroBatch, ...]:
        """The micro-batches of a training step of the generation cycle; none where it is skipped."""
        return self._experience.parts[place % self.args.steps_per_generation] if self._experience else ()

    def _prepare_inputs(self, inputs: Any) -> tuple[MicroBatch, ...]:
        """The micro-batches of this training step; TRL's loader gives the prompts of the whole rollout as `inputs`."""
        return self._part(self._place())

    def _roll_out(self, prompts: Sequence[Any], columns: Mapping[str, list[Any]]) -> Experience | None:
        """A rollout to train on; None where nothing can be learned from it.

        Raises:
            RunError: a monitor stops the training.
        """
        samples = self._rollouts.sample(self, prompts, dict(columns))
        scored = self._rollouts.score(samples, self._rollouts.greedy(self, samples))
        numbers = {"kl_coef": self._kl_coef, **{name: float(n) for name, n in scored.left_out.items() if n}}
        if not scored.samples.responses:
            self._note(**numbers)
            self._show(Step("", 0, None, {**numbers, "equal_rewards": 1.0}))
            return None
        rollout = self._rollouts.experience(scored, self._kl_coef)
        numbers |= self._log.add(rollout, self.state.global_step)
        self._note(**numbers)
        self._kl_coef = _adapted(self._objective.kl, self._kl_coef, numbers["kl"], len(rollout.mask))
        self._show(oversight.step_of(rollout, self._updates, numbers))
        self._updates.clear()
        return None if rollout.equal_rewards else rollout

    def _compute_loss(self, model: Any, inputs: Sequence[MicroBatch]) -> Tensor:
        """What a training step adds to the loss; gradients of its micro-batches but the last are accumulated here.

        Raises:
            RunError: the loss is not finite.
        """
        assert self._experience is not None
        loss = torch.zeros(())
        for part in inputs:
            if loss.requires_grad:
                self.accelerator.backward(loss)
            own, numbers = step.loss(self._outputs(part), part, self._experience, self._objective)
            if not own.isfinite():
                self._stop_at(own, part)
            for name, value in {**numbers, "loss": own.item()}.items():
                self._step_numbers[name] += value
            loss = own + loss.detach()
        return loss

    def _outputs(self, part: MicroBatch) -> Outputs:
        """Policy and critic outputs for a micro-batch; those of a rollout's only one were computed with the rollout."""
        assert self._experience is not None
        first, self._experience.first = self._experience.first, None
        return first or self._models.outputs(part.batch, entropy=self._objective.entropy_coef > 0)

    def _end_step(self) -> None:
        """Logs the numbers of an optimizer step, and skips the rest of a rollout once the policy moved too far."""
        numbers = dict(self._step_numbers)
        self._step_numbers.clear()
        self._updates["loss"].append(numbers.pop("loss"))
        self.note_update(numbers)
        if self._objective.stop_kl is not None and numbers["approx_kl"] > self._objective.stop_kl:
            self._experience = None

    def _stop_at(self, loss: Tensor, part: MicroBatch) -> None:
        """Ends the training for a loss that is not finite. Raises RunError."""
        assert self._experience is not None
        shown = oversight.step_of(self._experience, {}, {}).shown(part.rows.tolist())
        alarm = Alarm(not_finite("the loss", loss), {"responses": shown}, action="stop")
        self.monitors.stop("finite", alarm, self.state.global_step)

    def _show(self, found: Step) -> None:
        """Shows a rollout to the monitors; what they do to the KL coefficient holds from the next rollout on."""
        values = {**found.values, "learning_rate": self.optimizer.param_groups[0]["lr"]}  # of the next optimizer step
        at = replace(found, step=self.state.global_step, total=self.state.max_steps, values=values)
        factors = self.monitors.show(at, SCALES)
        scale_learning_rate(self, factors["scale_lr"])
        self._kl_coef *= factors["scale_kl"]

    def note_update(self, numbers: Mapping[str, float]) -> None:
        """Logs numbers of an update, and keeps them for the monitors."""
        self._note(**numbers)
        for name, value in numbers.items():
            self._updates[name].append(value)

    def _note(self, **numbers: float) -> None:
        for name, value in numbers.items():
            self._metrics["train"][name].append(float(value))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs; a loss is the mean over the optimizer steps that trained, and left out where there was none."""
        for name, skips in (("loss", self._metrics["train"].get("skipped", [])), ("train_loss", self._skips)):
            trained = skips.count(0.0)
            if name in logs and trained < len(skips):
                mean = logs.pop(name) * len(skips)
                logs |= {name: mean / trained} if trained else {}
        super().log(logs, start_time)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns: list[str] = [*{*self._signature_columns, COLUMNS}]


def _adapted(term: KL, coef: float, kl: float, episodes: int) -> float:
    """The next coefficient. Raises PluginError if it is no finite number of 0 or more."""
    found = term.adapted(coef, kl, episodes)
    if not (isinstance(found, Real) and 0 <= found < inf):
        raise PluginError(f"{named(term)} adapted its coefficient to {found!r}, not to a finite number of 0 or more")
    return float(found)


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
