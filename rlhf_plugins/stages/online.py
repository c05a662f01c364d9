"""The stage `online`: trains a policy on its own samples, scored by a reward: PPO, RLOO, GRPO, REINFORCE."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import KL, Advantage, PolicyLoss, Reduction, Shaping
from rlhf_plugins.contract.run import Adapter, ReportParts, Run, StageResult
from rlhf_plugins.contract.run_kinds import Environment, Monitor, Reward
from rlhf_plugins.contract.sampling import changed
from rlhf_plugins.contract.workload import Course, Kept, Known, Workload
from rlhf_plugins.recipe.unsupported_options import OF_TRANSFORMERS
from rlhf_plugins.stages._course import of_rollouts
from rlhf_plugins.stages._critic import NO_VALUES, check_critic, critic_in_processes, fits_adapters, value_in
from rlhf_plugins.stages._grpo_options import OF_GRPO_CONFIG, UNREAD
from rlhf_plugins.stages._online_result import save_result
from rlhf_plugins.stages._rollout_work import work_of_rollouts
from rlhf_plugins.stages._training_options import CacheTokens, From, PolicyTraining, Reference, TokensPerBatch, kept
from rlhf_plugins.trainers.ppo import sampling as options_of_sampling
from rlhf_plugins.trainers.ppo.options import ROUNDS, Exploration, Oversight, Table, Value, no_groups

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from rlhf_plugins.contract.rows import Group
    from rlhf_plugins.contract.run import Weights
    from rlhf_plugins.data.batches.tokens import RowEncoder
    from rlhf_plugins.engine.backbone import Backbone
    from rlhf_plugins.trainers.online.trainer import OnlineTrainer
    from rlhf_plugins.trainers.ppo.config import OnlineConfig

CORRECTION = "vllm_importance_sampling_correction"
CONFIG = "rlhf_plugins.trainers.ppo.config.OnlineConfig"
AS_THEY_ARE = (
    "advantage",
    "policy_loss",
    "reduction",
    "kl",
    "shaping",
    "stop_kl",
    "exploration",
    "turns",
    "turn_discount",
    "abstained",
    "equal_groups",
    "truncated",
    "tokens_per_batch",
)


class _Inputs(NamedTuple):
    """The configuration, the base's encoder, the prompts with room for a response, and those left out by reason."""

    args: OnlineConfig
    encoder: RowEncoder
    prompts: list[Group]
    unseen: list[Group]  # held out
    left_out: dict[str, int]


@dataclass(frozen=True)
class Online(
    PolicyTraining,
    makes={"policy"},
    makes_rollouts=True,
    scores_prompts=True,
    carries={"optimizer", "value", "kl"},
    processes="several",
    shards=True,
    zero=True,
    reserved=frozenset({"output_dir", "seed", *UNREAD, *OF_TRANSFORMERS}),
):
    """PPO (Schulman et al. 2017) with the defaults of Huang et al. 2024, or any other way to learn from own samples.

    A training step is one minibatch; `trainer` sets the rollout's size by TRL's own names (`num_generations`,
    `steps_per_generation`, `num_iterations`, `temperature`, `top_p`, `max_completion_length`).
    """

    of_trl = OF_GRPO_CONFIG
    reward: Reward = uses("reward", "model")
    advantage: Advantage = uses("advantage", "gae")
    policy_loss: PolicyLoss = uses("policy_loss", "clip")
    reduction: Reduction = uses("reduction", "tokens")
    kl: KL | None = uses("kl", "in_reward", optional=True)
    shaping: tuple[Shaping, ...] = uses("shaping", ["missing_eos"])
    value: Value = Value()
    entropy_coef: Annotated[float, Field(ge=0, description="weight of the entropy bonus")] = 0.0  # Huang et al. 2024
    stop_kl: Annotated[
        Annotated[float, Field(gt=0)] | None,
        Field(
            description="nats per token from what sampled; beyond it the rest of a rollout's minibatches are skipped"
        ),
    ] = None
    exploration: Annotated[Exploration | None, Field(description="`none` samples from the policy alone")] = None
    environment: Environment | None = uses("environment", optional=True)
    turns: Annotated[int, Field(ge=1, description="most of the policy's in a conversation with `environment`")] = 1
    turn_discount: Annotated[float, Field(ge=0, le=1, description="of the rewards of the next turn")] = 1.0
    monitors: tuple[Monitor, ...] = uses("monitor", ["equal_rewards", "entropy_floor", "kl_limit", "value_divergence"])
    abstained: Annotated[
        Literal["drop", "stop", "fallback"],
        Field(description="where the reward abstains: leave the response out, stop, or ask the reward `fallback`"),
    ] = "drop"
    fallback: Reward | None = uses("reward", optional=True)
    equal_groups: Annotated[
        Literal["keep", "drop", "resample"],
        Field(
            description="`drop` leaves the responses to a prompt out of the loss where all their rewards are equal; "
            "`resample` samples further prompts in their place"
        ),
    ] = "keep"
    truncated: Annotated[
        Literal["keep", "drop"],
        Field(description="`drop` leaves responses that were cut at `max_completion_length` out of the loss"),
    ] = "keep"
    table: Table = Table()
    from_: From = "previous"
    reference: Reference = "start"
    eval_prompts: Annotated[int, Field(ge=1, description="held-out prompts of an evaluation at `eval_strategy`")] = 64
    tokens_per_batch: TokensPerBatch = 8_192
    cache_tokens: CacheTokens = None
    name: str = "online"
    trainer: dict[str, Any] = field(default_factory=dict, metadata={"config": CONFIG})

    def __post_init__(self) -> None:
        fewest, given = self.advantage.min_group, self.trainer.get("num_generations")
        if given is not None and given < fewest:
            raise ValueError(f"trainer.num_generations: {given}, but the advantage compares {fewest} responses or more")
        check_critic(self)
        if (self.abstained == "fallback") != (self.fallback is not None):
            raise ValueError("fallback: a second reward goes with `abstained: fallback`; write both or neither")
        if why := no_groups(self.equal_groups, self.advantage, self.shaping, self.turns):
            raise ValueError(f"equal_groups: {why}; leave it out")
        if self.kl is None and self.reference != "start":
            raise ValueError(f"reference: {self.reference}, but with `kl: none` nothing reads it; leave it out")
        self._check_turns()
        self._check_correction()
        if reason := options_of_sampling.refusal(self.trainer, self.setting("temperature"), fewest > 1):
            raise ValueError(f"trainer.{reason}")
        cut = [*options_of_sampling.reshaping(self.trainer), *(["use_vllm"] if self.trainer.get("use_vllm") else [])]
        if self.exploration and cut:
            raise ValueError(f"exploration: with trainer.{cut[0]} something else is sampled; leave one of them out")

    def _check_turns(self) -> None:
        from rlhf_plugins.trainers.ppo.options import no_conversations

        if (self.environment is None) != (self.turns == 1):
            raise ValueError(
                "turns: 2 or more go with an `environment`, which writes the others; write both or neither"
            )
        if self.environment and (reason := no_conversations(self.advantage, bool(self.trainer.get("use_vllm")))):
            raise ValueError(f"environment: {reason}")

    def _check_correction(self) -> None:
        given = [name for name in self.trainer if name.startswith(CORRECTION.removesuffix("correction"))]
        if given and not self.trainer.get("use_vllm"):
            raise ValueError(
                f"trainer.{given[0]}: corrects for what vLLM samples; write use_vllm: true, or leave it out"
            )
        if given and not self.trainer.get(CORRECTION):
            raise ValueError(f"trainer.{given[0]}: nothing is corrected; write {CORRECTION}: true, or leave it out")

    @property
    def reads_reference(self) -> bool:
        """See `Stage`."""
        return self.kl is not None

    def missing(self) -> dict[str, str]:
        """The base of a critic of its own, where it is not there, and a discount of turns that are not."""
        from rlhf_plugins.recipe.base_policy import is_policy, no_model

        found, path = {}, self.value.base
        if self.environment is None and self.turn_discount != 1:
            found["turn_discount"] = "there are no later turns without an `environment`; leave it out"
        if path is not None and not is_policy(path) and (message := no_model(path)):
            found["value.base"] = message
        return found

    def fits(self, adapter: Adapter | None) -> None:
        """Raises ValueError where the recipe's adapter does not go with these options."""
        super().fits(adapter)
        fits_adapters(self, adapter)

    def fits_compared(self, option: str, called: str) -> None:
        """Raises ValueError where a response has no other to the same prompt."""
        from rlhf_plugins.trainers.ppo.options import no_comparison

        group, best = self.setting("num_generations"), str(self.trainer.get("metric_for_best_model", ""))
        if reason := no_comparison(group, self.turns, best, option == "fallback"):
            place, why = reason.split(": ", 1)
            raise ValueError(f"{place}: aggregation {called} compares the responses to a prompt, and {why}")

    def unread(self, written: Collection[str]) -> dict[str, str]:
        """The critic's, where the estimator has none."""
        return {"value": NO_VALUES} if "value" in written and not self.advantage.reads_values else {}

    def fits_processes(self, count: int) -> None:
        """Raises ValueError where a process's part of a rollout would hold no whole groups, or vLLM generates."""
        from rlhf_plugins.contract import processes

        size, group = self.setting("per_device_train_batch_size"), self.setting("num_generations")
        own = size * (self.setting("steps_per_generation") or self.setting("gradient_accumulation_steps"))
        if own % group:
            raise ValueError(
                f"{own} responses of a rollout are each process's, which hold no whole groups of num_generations: "
                f"{group}; write a per_device_train_batch_size that they divide"
            )
        critic_in_processes(self.value)
        if processes.divides_optimizer() and self.kl is not None and self.kl.constrains:
            raise ValueError("kl: a constraint measures whole updates, but DeepSpeed steps within the backward pass")
        if self.setting("use_vllm") and (untried := self._untried_of_vllm()):
            raise ValueError(f"use_vllm was not tried in several processes {untried}")

    def _untried_of_vllm(self) -> str:
        """What goes with vLLM in one process alone, and what to do instead; empty where nothing does."""
        from rlhf_plugins.contract import processes

        if self.setting("vllm_mode") != "server" and self.setting("vllm_tensor_parallel_size") != 1:
            return "that share its weights; write vllm_tensor_parallel_size: 1, or vllm_mode: server"
        if self.equal_groups == "resample":
            return "with equal_groups: resample; write drop"
        divided = "DeepSpeed" if processes.divides_optimizer() else "FSDP" if processes.shards() else ""
        return divided and f"under {divided}; write `distributed_type: MULTI_GPU`"

    def workload(self, adapter: Adapter | None) -> Workload:
        """A training step of a rollout, what the reference and the reward compute of it, and its generation."""
        return work_of_rollouts(self, adapter)

    def course(self, known: Known) -> Course:
        """Its length, by its rollouts."""
        return of_rollouts(self, known, self.turns, ROUNDS if self.equal_groups == "resample" else 0)

    def own_numbers(self, gold: bool) -> frozenset[str]:
        """See `PolicyTraining`."""
        known = {"gold_reward": gold, "kl": self.kl is not None and not changed(self.trainer)}
        parts = (f"reward/{name}" for name in self.reward.part_names())
        return frozenset({"reward", "length", *parts, *(name for name, measured in known.items() if measured)})

    def keeping(self, carry: Collection[str]) -> Any:
        """See `Stage`."""
        if self.value.start == "reward" and "value" in carry:
            raise ValueError("carry: value: the critic begins as the reward model; leave out one of them")
        if self.kl is None and "kl" in carry:
            raise ValueError("carry: kl: the stage has `kl: none`; leave it out")
        return super().keeping(carry)

    def rehearse(self, run: Run) -> Kept:
        """See `Stage`."""
        from rlhf_plugins.trainers.watching.held_out import held_out

        def asked(prompts: Sequence[Group]) -> tuple[int, Mapping[str, int]]:
            found = self._inputs(run, prompts)
            held_out(found.args, found.unseen, tuple)
            return len(found.prompts), found.left_out

        self._arguments(run, None)  # whose faults need neither base nor rows
        return kept(run.data.prompts["train"], "prompts", asked)

    def _inputs(self, run: Run, train: Sequence[Group]) -> _Inputs:
        """What is known before weights load.

        Raises:
            DataError: no prompt is left.
            RunError: fewer prompts are left than a rollout takes.
        """
        from rlhf_plugins.data.batches.tokenized import prompts_with_room
        from rlhf_plugins.engine.weights.loading import load_policy_encoder
        from rlhf_plugins.trainers.arguments import refuse_few_prompts

        encoder = load_policy_encoder(run.base)
        args = self._arguments(run, encoder.fit.most)
        room, option = args.max_completion_length, "trainer.max_completion_length"
        prompts, left_out = prompts_with_room(train, encoder, room, option)
        refuse_few_prompts(args, len(prompts))
        asked = run.data.prompts.get("test", ())[: self.eval_prompts]
        unseen, _ = prompts_with_room(asked, encoder, room, option)
        return _Inputs(args, encoder, prompts, unseen, left_out)

    def run(self, run: Run) -> StageResult:
        """Leaves the policy in `model/`, and beside it the critic, if one was trained.

        That is `value_head.safetensors`, and `value_network/` where it has a model of its own.
        """
        from rlhf_plugins.engine.token_budget import room
        from rlhf_plugins.trainers.arguments import record_curves
        from rlhf_plugins.trainers.ppo.oversight import warned_of_skips
        from rlhf_plugins.trainers.watching.budget import spending
        from rlhf_plugins.trainers.watching.held_out import choice
        from rlhf_plugins.trainers.watching.tasks import measure_tasks

        trainer, backbone, left_out = self._trainer(run)
        self._supervise(trainer, run)
        curves = record_curves(trainer, run.log)
        measure_tasks(trainer, self.tasks, run.sharing(backbone) if backbone else run, curves)
        with room(self.tokens_per_batch, self.cache_tokens), spending(trainer, self.budget) as spent:
            run.go_on(trainer)
        notes = (*spent.notes, *choice(trainer, self.name), *warned_of_skips(trainer))
        folder = run.folder / "model"
        save_result(trainer, backbone, run.folder)
        return StageResult(
            policies={self.name: {"use": "trained", "path": str(folder), "base": run.base.path}},
            report=ReportParts(left_out=left_out | trainer.unlearned, rollouts=trainer.rollouts_shown, notes=notes),
            sections=trainer.monitors.sections(),
            curves=curves.curves,
            metrics=spent.metrics,
        )

    def _trainer(self, run: Run) -> tuple[OnlineTrainer, Backbone | None, dict[str, int]]:
        """What trains the policy, the base that others share with it, and the prompts left out, by reason."""
        from rlhf_plugins.data.batches.groups import prompt_dataset
        from rlhf_plugins.engine.backbone import Backbone
        from rlhf_plugins.engine.weights.starting import load_start
        from rlhf_plugins.trainers.arguments import building
        from rlhf_plugins.trainers.online.trainer import OnlineTrainer
        from rlhf_plugins.trainers.watching.held_out import held_out
        from rlhf_plugins.trainers.watching.supervision import built_monitors

        args, encoder, prompts, unseen, left_out = self._inputs(run, run.data.prompts["train"])
        train = prompt_dataset(prompts)
        with building(len(train)):
            model = load_start(run.weights("start"))
            backbone = Backbone(model, run.base) if run.base.adapter else None  # trained weights carry nobody else
            trainer = OnlineTrainer(
                model,
                args=args,
                train_dataset=train,
                eval_dataset=held_out(args, unseen, prompt_dataset),
                processing_class=encoder.tokenizer,
                reference=_reference(run.weights("reference"), backbone) if self.kl else None,
                oversight=Oversight(self.table, run.data.gold, built_monitors(self, run), run.log_samples),
                **self._parts(run.sharing(backbone) if backbone else run),
            )
        return trainer, backbone, left_out

    def _arguments(self, run: Run, most: int | None) -> OnlineConfig:
        """The configuration; `most` is how many tokens a sequence may have."""
        from rlhf_plugins.trainers.arguments import arguments, refuse_uninstalled
        from rlhf_plugins.trainers.ppo.config import OnlineConfig

        own = {"disable_dropout": True, "entropy_coef": self.entropy_coef, "num_generations_eval": 1}
        own |= {"router_aux_loss_coef": 0.0}  # a base's own would go TRL's way
        if most:  # TRL's default may be more than there is room for
            own["max_completion_length"] = min(OnlineConfig.max_completion_length, most // 2)
        args = arguments(OnlineConfig, run.folder, run.seed, {**own, **self.trainer})
        refuse_uninstalled(args)
        return args

    def _supervise(self, trainer: OnlineTrainer, run: Run) -> None:
        """Gives a trainer what the stage's own options ask beside its loss."""
        from rlhf_plugins.trainers.optimizer_state import hand_on, stage_of
        from rlhf_plugins.trainers.ppo.held_out import HeldOut
        from rlhf_plugins.trainers.watching.held_out import stop_early
        from rlhf_plugins.trainers.watching.supervision import clip_by_value, evaluate_as, regularize

        regularize(trainer, self, run)
        trainer.begin_with(run.carry, stage_of(run.weights("start")))
        hand_on(trainer, self, run, trainer.value_weights)
        clip_by_value(trainer, self.max_grad_value)
        stop_early(trainer, self.early_stopping_patience, self.early_stopping_threshold)
        evaluate_as(trainer, HeldOut)
        trainer.gold = run.data.gold

    def _parts(self, run: Run) -> dict[str, Any]:
        """The options that OnlineTrainer takes as they are, and the rewards as built for the run."""
        from rlhf_plugins.reward_models.handle import fitting

        return {
            **{name: getattr(self, name) for name in AS_THEY_ARE},
            "reward": fitting(self, "reward", self.reward.build(run)),
            "environment": self.environment.build(run) if self.environment else None,
            "max_length": run.base.lengths.max_length if self.environment else None,
            "value": value_in(self.value, run) if self.advantage.reads_values else None,
            "fallback": fitting(self, "fallback", self.fallback.build(run)) if self.fallback else None,
            "keep_groups": True,
            "skip_equal": True,
        }


def _reference(weights: Weights, backbone: Backbone | None) -> Any:
    """A model, the name of an adapter beside the policy's, or None for their base alone."""
    from rlhf_plugins.engine.weights.starting import load_frozen

    if backbone is None or not backbone.matches(weights.base):
        return load_frozen(weights)
    return weights.folder and backbone.load(weights.folder)


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"online": Online}
