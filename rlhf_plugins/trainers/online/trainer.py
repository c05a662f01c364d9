"""Trains a policy on its own samples: TRL's GRPOTrainer with its rollout, forward pass and loss replaced.

TRL samples the prompts, generates, and schedules the training steps; `ppo` makes rollouts and computes losses, and the
arithmetic is in the components.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import trl
from torch import Tensor

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.function_logs import listening
from rlhf_plugins.contract.guards import named
from rlhf_plugins.contract.run import Step
from rlhf_plugins.data.batches.chat import rendering
from rlhf_plugins.data.batches.groups import COLUMNS, batch_prompts
from rlhf_plugins.data.batches.tokens import RowEncoder, encode_prompt, turn_end
from rlhf_plugins.data.turns import without_nulls
from rlhf_plugins.engine.cost import counting
from rlhf_plugins.engine.sampler_log_probs import noted_log_probs
from rlhf_plugins.engine.sampling import end_tokens
from rlhf_plugins.engine.weights.loading import positions, use_fast_paths
from rlhf_plugins.engine.weights.shards import gathered
from rlhf_plugins.errors import DataError, RunError
from rlhf_plugins.reward_models.handle import RewardHandle
from rlhf_plugins.trainers.arguments import prepare
from rlhf_plugins.trainers.constructor import joint_signature, split_arguments
from rlhf_plugins.trainers.online.engine_or_trl import OnlineOptions, checked, ends_asked, objective_of, obstacle_of
from rlhf_plugins.trainers.online.learning import LearnsInParts, recovering
from rlhf_plugins.trainers.online.metrics import Updates, note_completions, of_conversations, spread, spread_of_parts
from rlhf_plugins.trainers.online.reward_functions import HearsFunctions
from rlhf_plugins.trainers.online.rewards import ForTRL, OneReward, RewardFunctions, columns_of, name_of
from rlhf_plugins.trainers.online.state import KeepsRollout
from rlhf_plugins.trainers.ppo import importance, oversight, sampling, step
from rlhf_plugins.trainers.ppo.constraint import adapted, constrain
from rlhf_plugins.trainers.ppo.critic import Critic, without_critic
from rlhf_plugins.trainers.ppo.dropout import without_dropout
from rlhf_plugins.trainers.ppo.from_reward import begin_as
from rlhf_plugins.trainers.ppo.models import Models
from rlhf_plugins.trainers.ppo.refilling import Drawn, Refill
from rlhf_plugins.trainers.ppo.rollout import RECORDS, Cut, Experience, MicroBatch, Rollouts
from rlhf_plugins.trainers.resuming import Resumable
from rlhf_plugins.trainers.scaling import accept_skips
from rlhf_plugins.trainers.scripted import handle_of
from rlhf_plugins.trainers.steps.data_parallel import SharesBatches
from rlhf_plugins.trainers.steps.micro_batches import stepping, steps_in_backward, token_limit
from rlhf_plugins.trainers.watching.monitoring import Monitors, scale_learning_rate
from rlhf_plugins.trainers.zero import HidesLaunch, hand_options_on, take_over_weights

logger = logging.getLogger(__name__)
SCALES = ("scale_lr", "scale_kl")  # what an alarm may scale


class OnlineTrainer(LearnsInParts, KeepsRollout, HearsFunctions, SharesBatches, HidesLaunch, trl.GRPOTrainer):
    """TRL's GRPOTrainer, with the fields of `OnlineOptions` as keywords besides its own arguments.

    It trains for any objective, with a critic where its estimator needs one; without our keywords, for GRPO as the
    configuration says. What the engine does not compute goes TRL's own way, and one line of the log says so; `obstacle`
    then names the reason. Evaluation is TRL's.

    A minibatch is what one optimizer step learns from: `gradient_accumulation_steps` training steps, each of which is
    computed in micro-batches of at most `tokens_per_batch` tokens. Neither changes the gradient; where a component
    needs a minibatch whole, its first training step computes all of it.

    Args:
        given: GRPOTrainer's arguments, in its order.
        named: GRPOTrainer's arguments by name, and ours.

    Raises:
        RunError: the options contradict one another, ours ask for the engine where it cannot help, or (while training)
            a monitor stops it, the reward abstains and must not, or the chat template refuses a prompt.
        PluginError: a component fails.
    """

    __signature__ = joint_signature(trl.GRPOTrainer, OnlineOptions)
    eos_token_ids: list[int]
    records = RECORDS
    cuts_batches = False  # each process gets the prompts of all, and generates for its share

    def __init__(self, *given: Any, **named: Any) -> None:
        theirs, own = split_arguments(trl.GRPOTrainer, OnlineOptions, given, named)
        theirs = checked(own, theirs)
        asked = None
        if own.reward is not None:
            asked = ForTRL(handle_of(own.reward), name_of(own.reward), lambda: self._prompt_ids)
            theirs["reward_funcs"] = asked
        self._prompt_ids: list[list[int]] = []  # prompts of the last generation
        self.sampler_log_probs: list[Sequence[float | None]] = []  # of a rollout's responses under their sampler
        self._of_functions = {}
        super().__init__(**theirs)
        if asked is None:
            self._take_dicts()
        self._policy_tokens = RowEncoder(self._tokenizer, None)  # a reward model that has others reads texts
        self.prompt_tokens = RowEncoder(rendering(self._tokenizer, self.chat_template_kwargs), None)
        if asked is not None:
            asked.reward = asked.reward.given(self._policy_tokens)
        self.obstacle, self.settled = obstacle_of(self, theirs, own), True
        hand_options_on(self)
        if self.obstacle is None:
            logger.info("%s trains on the engine", type(self).__name__)
            self._take_over(own, None if asked is None else asked.reward)
        elif own.asked:
            raise RunError(f"{own.asked[0]}= needs the engine, which does not compute {self.obstacle}")
        else:
            logger.warning("%s goes TRL's own way: %s", type(self).__name__, self.obstacle)

    def _take_over(self, own: OnlineOptions, reward: RewardHandle | None) -> None:
        """Makes the engine compute this training."""
        args, watch = self.args, own.oversight
        args.ds3_gather_for_generation = False  # a rollout gathers all weights once
        without_dropout(self.model)
        for model in (self.model, self.ref_model):
            if model is not None:
                use_fast_paths(model)
        prepare(self)
        accept_skips(self)
        folder = Path(args.output_dir)
        self.monitors = watch.monitors or Monitors(folder=folder)
        self.monitors.follow(self)
        self._asked = RewardFunctions(self) if reward is None else OneReward(reward)
        fallback = None if own.fallback is None else handle_of(own.fallback).given(self._policy_tokens)
        aim = self._objective = objective_of(args, own, self._asked, fallback)
        sampling.warn(aim.reshaped)
        self._kl_coef = aim.kl.coef if aim.kl else 0.0  # coefficient of the next rollout
        self._own_parts = bool(own.asked)  # whether GRPOConfig does not say all of the objective
        ratios = self.loss_type, (self.epsilon_low, self.epsilon_high)
        self._theirs = None if own.policy_loss else Updates(*ratios, own.kl is None, aim.weighs_kl, aim.by_response)
        self._log = oversight.RolloutLog(folder, watch.table, watch.gold, watch.listen)
        begun = begin_as(reward, self.model) if aim.value.start == "reward" else None
        self._critic = Critic(self.model, aim.value, self._tokenizer, begun) if aim.advantage.reads_values else None
        if self._critic and self.use_vllm:
            without_critic(self.vllm_generation)
        self._models = Models(
            policy=self.model,
            reference=self._reference_of(own),
            critic=self._critic,
            pad_id=self._tokenizer.pad_token_id,
            temperature=self.temperature,
            accelerator=self.accelerator,
        )
        if aim.advantage.reads_values and aim.value.warmup_steps and steps_in_backward(args):
            raise RunError(f"value.warmup_steps: {stepping(args)} steps within the backward pass: take another optim")
        self._constraint = constrain(self, aim.kl, self._models) if aim.kl and aim.kl.constrains else None
        self._end_turns()
        self._rollouts = Rollouts(
            aim, self._models, frozenset(self.eos_token_ids), self.num_generations, self._cut(own)
        )
        self._refill = Refill(self.train_dataset, self.num_generations, args.seed) if aim.resamples else None
        self._recovery = recovering(self)
        self._most_tokens = own.max_length or positions(self.model.config)
        self._skips_equal = own.skip_equal or aim.advantage.reads_values
        self._experience: Experience | None = None  # None: the rest of the rollout's training steps are skipped
        self._trains = False  # whether this optimizer step has anything to learn from
        self._step_numbers: dict[str, float] = defaultdict(float)  # sums over this optimizer step so far
        self._updates: dict[str, list[float]] = defaultdict(list)  # numbers of the updates since the last rollout
        self._unlearned: dict[str, int] = {}  # responses that were left out so far, by reason
        self._skips: list[float] = []  # for each optimizer step so far, 1 where it was skipped

    def _end_turns(self) -> None:
        """Ends responses also with what closes a turn in the chat template, or is asked for; all are saved as ends."""
        own, end = self.eos_token_ids, turn_end(self._tokenizer)
        if end is not None and end not in own:
            name = self._tokenizer.convert_ids_to_tokens(end)
            logger.warning("responses also end with %s, which closes a turn in the chat template", name)
        ends = sorted({*own, *ends_asked(self.args), *end_tokens(self.model, self._tokenizer)})
        self.eos_token_ids = self.model.generation_config.eos_token_id = ends
        if self.use_vllm:  # whose server knows the ends of the model that it was started with
            self.vllm_generation.generation_kwargs = {**self.vllm_generation.generation_kwargs, "stop_token_ids": ends}
        else:
            self.generation_config.eos_token_id = ends

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        if self.obstacle is not None or self.tools:
            return super()._tokenize_prompts(prompts)
        tokenizer = self.prompt_tokens.tokenizer
        return [encode_prompt(tokenizer, without_nulls(prompt)) for prompt in prompts], None, {}

    def _reference_of(self, own: OnlineOptions) -> Any:
        """The reference: a model, the adapter that TRL copied, or None for the policy with its adapters off.

        Raises:
            RunError: a KL needs one, and there is none.
        """
        if own.reference is not None:
            return own.reference
        copied = "ref" if "ref" in getattr(self.model, "peft_config", {}) else None
        if own.kl is not None and not hasattr(self.model, "peft_config"):
            raise RunError("kl= needs reference=, the frozen model that the policy is to stay near, or an adapter")
        return self.ref_model or copied

    def _cut(self, own: OnlineOptions) -> Cut:
        aim, args = self._objective, self.args
        parts = [part for part in (aim.policy_loss, aim.reduction, aim.kl) if part is not None]
        whole = any(part.uses_batch_mates for part in parts) or not step.adds_up(aim.reduction)
        if whole and processes.count() > 1:
            raise RunError(f"{named(aim.reduction)} or another part needs a minibatch whole: launch one process")
        tokens = None if whole else token_limit(own.tokens_per_batch, args)
        return Cut(args.per_device_train_batch_size, args.gradient_accumulation_steps, tokens, whole, own.keep_groups)

    @property
    def rollouts_shown(self) -> list[dict[str, Any]]:
        """Responses from the beginning and the end of the training, with their step and numbers."""
        return self._log.shown

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains; from a checkpoint as TRL does, with a new rollout.

        Raises:
            RunError: our components are to go on from a checkpoint, which does not hold what they know.
        """
        if self.obstacle is not None:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        if resume_from_checkpoint and self._own_parts and not isinstance(self, Resumable):
            raise RunError(
                "an online training cannot go on from a checkpoint, which holds neither the rollout "
                "in use, nor the critic, nor what the reward was normalised by; start the stage again"
            )
        with counting() as self.monitors.counter:
            return super().train(resume_from_checkpoint, *args, **kwargs)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Makes a rollout once a generation cycle, and computes a training step's share of a minibatch.

        A skipped minibatch changes no gradients and no weights.
        """
        if self.obstacle is not None:
            theirs: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return theirs
        place, steps = self._place(), self.args.gradient_accumulation_steps
        if place == 0:
            self.model.train()
            self._experience = self._roll_out(inputs)
            if self._constraint:
                self._constraint.use(self._experience.batches if self._experience else None)
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
        return processes.mean(loss)

    def _place(self) -> int:
        """Which training step of the generation cycle this is, from 0."""
        place: int = self._step % (self.args.steps_per_generation * self.num_iterations)
        return place

    def _part(self, place: int) -> tuple[MicroBatch, ...]:
        """The micro-batches of a training step of the generation cycle; none where it is skipped."""
        return self._experience.parts[place % self.args.steps_per_generation] if self._experience else ()

    def _prepare_inputs(self, inputs: Any) -> Any:
        """The micro-batches of this training step; TRL's loader gives the prompts of the whole rollout as `inputs`."""
        if self.obstacle is not None or not self.model.training:
            return super()._prepare_inputs(inputs)
        return self._part(self._place())

    def _generate(self, prompts: list[Any]) -> Any:
        if self.obstacle is not None or not self.model.training:
            found = super()._generate(prompts)
            self._prompt_ids = found[0]
            return found
        with noted_log_probs(self.model, None if self._objective.reshaped else self.temperature) as noted:
            found = super()._generate(prompts)
        self._prompt_ids, ids = found[0], found[1]
        nats = noted or found[4] or [[None] * len(each) for each in ids]
        return (*found[:4], [row[: len(each)] for row, each in zip(nats, ids, strict=True)], *found[5:])

    def prediction_step(self, *given: Any, **options: Any) -> tuple[Any, Any, Any]:
        """TRL's evaluation of a batch; where components say what is maximised, TRL's loss would be another one."""
        theirs: tuple[Any, Any, Any] = super().prediction_step(*given, **options)
        return theirs if self.obstacle is not None or not self._own_parts else (None, None, None)

    def _draw(self, rows: Sequence[Mapping[str, Any]]) -> Drawn:
        """A response to the prompt of each row, and where an environment goes on those of later turns; all scored."""
        samples = self._rollouts.sample(self, batch_prompts(rows), columns_of(rows))
        talks = self._rollouts.conversations(self, samples)
        scored = self._rollouts.score(talks, self._rollouts.greedy(self, samples))
        return Drawn(talks, scored, self._asked.each[: len(talks.turn)])

    def _roll_out(self, rows: Sequence[Mapping[str, Any]]) -> Experience | None:
        """A rollout to train on, from its prompts' rows; None where nothing can be learned from it.

        Raises:
            RunError: a monitor stops the training.
        """
        self.sampler_log_probs.clear()
        with gathered(self.model), listening() as self._heard:
            drawn, more = self._draw(rows), dict[str, float]()
            if self._refill:
                drawn, more["unfilled"] = self._refill(drawn, self._draw)
        talks, scored, extra = drawn.talks, drawn.scored, self._asked.take_extra()
        numbers = {name: float(n) for name, n in scored.left_out.items() if n}
        numbers |= more | {name: float(left.sum()) for name, left in scored.unlearned.items()}
        for name, number in numbers.items():
            self._unlearned[name] = self._unlearned.get(name, 0) + int(number)
        if self._refill:
            numbers["resampled"] = float(len(talks.turn) - len(rows))
        if self._objective.turns:
            numbers |= of_conversations(talks, scored.rewards)
        if self._objective.kl is not None:
            numbers["kl_coef"] = self._kl_coef
        self._note_logged()
        self._note(**self._rewards_of(drawn))
        if not scored.samples.responses:
            self._note(**numbers)
            self._show(Step("", 0, None, {**numbers, "equal_rewards": 1.0}))
            return None
        rollout = self._rollouts.experience(scored, self._kl_coef)
        if self._critic:
            take_over_weights(self)  # of its head, which learned the unit of the returns
        numbers |= self._log.add(rollout, self.state.global_step, scored.unlearned, self._heard)
        numbers |= importance.compared(self.sampler_log_probs, rollout, self._objective)
        self._note(**self._own_numbers(numbers))
        note_completions(self, rollout, drawn.each, extra)
        if self._objective.kl is not None and not self.warms_up:  # a policy that is held cannot answer it
            self._kl_coef = adapted(self._objective.kl, self._kl_coef, numbers["kl"], len(rollout.mask))
        self._show(oversight.step_of(rollout, self._updates, numbers))
        self._updates.clear()
        skips = self._skips_equal and rollout.equal_rewards
        return None if skips or not any(map(len, rollout.steps)) else rollout

    def has_room(self, conversation: Any) -> bool:
        """Whether there is room for a response to a conversation so far.

        Raises:
            RunError: the chat template refuses it.
        """
        try:
            tokens = len(self.prompt_tokens.encode_start(conversation)) + self.max_completion_length
        except DataError as error:
            raise RunError(f"a conversation that the environment continued: {error}") from error
        return self._most_tokens is None or tokens <= self._most_tokens

    def _rewards_of(self, drawn: Drawn) -> dict[str, float]:
        """TRL's numbers of the rewards of a rollout."""
        talks, each = drawn.talks, drawn.each
        total = (each * self.reward_weights).nansum(1).masked_fill(each.isnan().all(1), torch.nan)
        names = self.reward_func_names if isinstance(self._asked, RewardFunctions) else []
        parts = drawn.scored.rewards.prediction.dimensions if names else {}
        return spread(each, names, total, talks.groups(self.num_generations)) | spread_of_parts(parts, names)

    def _end_step(self) -> None:
        """Logs the numbers of an optimizer step, and skips the rest of a rollout once the policy moved too far."""
        each = processes.gathered(dict(self._step_numbers))
        numbers = {name: sum(own.get(name, 0.0) for own in each) for own in each for name in own}
        self._step_numbers.clear()
        self._updates["loss"].append(numbers.pop("loss"))
        if self._theirs and self._objective.entropy_coef:
            numbers["entropy_coef"] = self._objective.entropy_coef
        self.note_update(numbers)
        if self._objective.stop_kl is not None and numbers["approx_kl"] > self._objective.stop_kl:
            self._experience = None

    def _show(self, found: Step) -> None:
        """Shows a rollout to the monitors; what they do to the KL coefficient holds from the next rollout on."""
        values = {**found.values, "learning_rate": self.optimizer.param_groups[0]["lr"]}  # of the next step
        at = replace(found, step=self.state.global_step, total=self.state.max_steps, values=values)
        factors = self.monitors.show(at, SCALES)
        scale_learning_rate(self, factors["scale_lr"])
        self._kl_coef *= factors["scale_kl"]

    def note_update(self, numbers: Mapping[str, float]) -> None:
        """Logs numbers of an update, and keeps them for the monitors."""
        self._note(**numbers)
        for name, value in numbers.items():
            self._updates[name].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs; a loss is the mean over the optimizer steps that trained, and left out where there was none."""
        if self.obstacle is not None:
            super().log(logs, start_time)
            return
        for name, skips in (("loss", self._metrics["train"].get("skipped", [])), ("train_loss", self._skips)):
            trained = skips.count(0.0)
            if name in logs and trained < len(skips):
                mean = logs.pop(name) * len(skips)
                logs |= {name: mean / trained} if trained else {}
        super().log(logs, start_time)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns: list[str] = [*{*self._signature_columns, COLUMNS}]
