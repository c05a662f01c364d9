"""Whether the engine computes an online training, or TRL; and what GRPOConfig's options are as components."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import trl

from rlhf_plugins.contract.guards import named
from rlhf_plugins.contract.interfaces import KL, Advantage, PolicyLoss, Reduction, Shaping
from rlhf_plugins.contract.run_kinds import Environment, EnvironmentFunction, Reward
from rlhf_plugins.data.batches.branches import TOKENS_PER_BATCH
from rlhf_plugins.errors import RunError
from rlhf_plugins.trainers.arguments import acting, unusual_adapter, unusual_launch
from rlhf_plugins.trainers.constructor import refuse_others
from rlhf_plugins.trainers.given_rows import Rows
from rlhf_plugins.trainers.ppo import sampling
from rlhf_plugins.trainers.ppo.dropout import dropout, random_router
from rlhf_plugins.trainers.ppo.importance import Correction
from rlhf_plugins.trainers.ppo.options import (
    Exploration,
    Objective,
    Oversight,
    Table,
    Turns,
    Value,
    no_conversations,
    no_groups,
)
from rlhf_plugins.trainers.scripted import environment_of

REDUCTIONS = {  # TRL's loss_type -> ours
    **{"dapo": "tokens", "bnpo": "tokens", "cispo": "tokens", "grpo": "responses", "sapo": "responses"},
    "dr_grpo": "constant",
}
UNCLIPPED = ("cispo", "sapo")  # losses that are no clip of the ratio
ADVANTAGES = {"group": "grpo", "batch": "grpo_batch", "none": "dr_grpo"}  # TRL's scale_rewards -> ours
FUNCTIONS = {"reward": Reward, "fallback": Reward, "environment": Environment}  # arguments that may be functions too
KINDS: dict[str, type] = {
    **{"advantage": Advantage, "policy_loss": PolicyLoss, "reduction": Reduction, "kl": KL, "shaping": Shaping},
    **{"value": Value, "exploration": Exploration, **FUNCTIONS},
}
INSTEAD_OF: dict[str, dict[str, Any]] = {  # our argument -> options of TRL's that it replaces, with their defaults
    "advantage": {"scale_rewards": "group", "multi_objective_aggregation": "sum_then_normalize"},
    "policy_loss": {
        "loss_type": "dapo",
        "epsilon": 0.2,
        "epsilon_high": None,
        "delta": None,
        "importance_sampling_level": "token",
    },
    "reduction": {"loss_type": "dapo"},
    "kl": {"beta": 0.0},
    "reward": {"reward_weights": None},
}
THEIRS_ALONE = {  # options that the engine does not compute, and their value where they do nothing
    "mask_truncated_completions": False,
    "multi_objective_aggregation": "sum_then_normalize",
    "off_policy_mask_threshold": None,
    "top_entropy_quantile": 1.0,
    "use_adaptive_entropy": False,
    "use_transformers_continuous_batching": False,
    "cast_lm_head_to_fp32": False,
}


@dataclass(frozen=True)
class OnlineOptions:
    """What an OnlineTrainer takes besides GRPOTrainer's arguments; a component replaces options of its config."""

    reward: Reward | Callable[[Any], Any] | None = None  # a component, or a function of `Samples`; or `reward_funcs`
    advantage: Advantage | None = None
    policy_loss: PolicyLoss | None = None
    reduction: Reduction | None = None
    kl: KL | None = None
    shaping: Sequence[Shaping] = ()
    value: Value | None = None  # options of the critic, where the advantage reads values
    reference: str | Any = None  # for `kl`: a frozen model, or an adapter's name; None: the policy with adapters off
    stop_kl: float | None = None  # nats per token; beyond it the rest of a rollout is skipped
    exploration: Exploration | None = None
    environment: Environment | EnvironmentFunction | None = None  # as a function: of `Samples`, to what follows each
    turns: int = 1  # most of the policy's in a conversation with the environment
    turn_discount: float = 1.0  # discount of the rewards of later turns
    max_length: int | None = None  # tokens of a conversation; None is what the model takes
    abstained: Literal["drop", "stop", "fallback"] = "drop"
    fallback: Reward | Callable[[Any], Any] | None = None
    equal_groups: Literal["keep", "drop", "resample"] = "keep"  # where all responses to a prompt score alike
    truncated: Literal["keep", "drop"] = "keep"  # whether responses that were cut are in the loss
    tokens_per_batch: int | None = TOKENS_PER_BATCH  # most in memory at once, padding included; None is no limit
    keep_groups: bool = False  # minibatches hold the responses to a prompt together, as far as they divide; TRL mixes
    skip_equal: bool = False  # a rollout of equal rewards changes no weight; TRL steps with gradients of 0
    oversight: Oversight = Oversight(Table(rows=0))

    @property
    def asked(self) -> list[str]:
        """The arguments that were given and have no meaning without the engine."""
        given = {f.name for f in fields(self) if getattr(self, f.name) is not f.default}
        return sorted(given - {"tokens_per_batch"})


def read_by(given: Mapping[str, Any]) -> Rows:
    """What a training reads of its rows; an environment of TRL's gives prompts itself."""
    return Rows(("prompt",), needs=() if given.get("environment_factory") else (("prompt",),))


def checked(own: OnlineOptions, given: Mapping[str, Any]) -> dict[str, Any]:
    """GRPOTrainer's arguments, whose streamed data sets are checked as they are read.

    Raises:
        DataError: see `Rows.checked`.
        RunError: see `check`.
    """
    found = read_by(given).checked(given)
    check(own, found)
    return found


def check(own: OnlineOptions, given: Mapping[str, Any]) -> None:
    """Raises RunError for options of ours that contradict GRPOTrainer's arguments or one another."""
    args = given.get("args")
    refuse_others(own, KINDS, FUNCTIONS)
    for name, instead in INSTEAD_OF.items():
        for option, default in instead.items() if args is not None and getattr(own, name) is not None else ():
            if getattr(args, option) != default:
                raise RunError(f"both {name}= and args.{option}={getattr(args, option)!r} say the same: leave one out")
    if own.reward is not None and given.get("reward_funcs") is not None:
        raise RunError("both reward= and reward_funcs give rewards: leave one of them out")
    if (own.abstained == "fallback") != (own.fallback is not None):
        raise RunError("fallback= is a second reward, and goes with abstained='fallback': give both or neither")
    if own.value is not None and not (own.advantage and own.advantage.reads_values):
        raise RunError("value= is of a critic, and the advantage reads no values: leave it out")
    if reason := no_groups(own.equal_groups, own.advantage, own.shaping, own.turns):
        raise RunError(f"equal_groups={reason}: leave it out")
    if (own.environment is None) != (own.turns == 1):
        raise RunError("environment= writes what follows a response, and turns= says how often: give both or neither")
    if own.environment is None and (own.turn_discount != 1 or own.max_length is not None):
        raise RunError("turn_discount= and max_length= are of conversations: give environment= too, or leave them out")
    if args is not None:
        _check_sampling(own, args)


def _check_sampling(own: OnlineOptions, args: trl.GRPOConfig) -> None:
    fewest = own.advantage.min_group if own.advantage is not None else 2
    if args.num_generations < fewest:
        raise RunError(
            f"{named(own.advantage) if own.advantage else 'grpo'} compares the responses to a prompt: "
            f"num_generations is {args.num_generations}, and it needs {fewest} or more"
        )
    if reason := sampling.refusal(vars(args), args.temperature, fewest > 1):
        raise RunError(reason)
    if own.environment is not None and (reason := no_conversations(own.advantage, args.use_vllm)):
        raise RunError(f"environment= {reason}")
    cut = [*sampling.reshaping(vars(args)), *(["use_vllm"] if args.use_vllm else [])]
    if own.exploration and cut:
        raise RunError(
            f"exploration: with {cut[0]} responses would not be sampled from the mixture; leave {cut[0]} out"
        )


def ends_asked(args: trl.GRPOConfig) -> list[int]:
    """The tokens that end a response by `generation_kwargs`."""
    found = (args.generation_kwargs or {}).get("stop_token_ids" if args.use_vllm else "eos_token_id")
    return list(found) if isinstance(found, list | tuple) else [] if found is None else [found]


def objective_of(args: trl.GRPOConfig, own: OnlineOptions, score: Any, fallback: Any) -> Objective:
    """What the policy maximises: our components where they are given, what the configuration says elsewhere."""
    from rlhf_plugins.recipe.public import component

    length = {"length": args.max_completion_length} if args.loss_type == "dr_grpo" else {}
    term = component("kl", "in_loss", coef=args.beta) if args.beta else None
    return Objective(
        score=score,
        advantage=acting(own.advantage or component("advantage", ADVANTAGES[args.scale_rewards])),
        policy_loss=acting(own.policy_loss or _policy_loss(args)),
        reduction=acting(own.reduction or component("reduction", REDUCTIONS[args.loss_type], **length)),
        alike=own.reduction is None and args.loss_type in ("dapo", "cispo"),
        kl=acting(own.kl or term) if own.kl or term else None,
        weighs_kl=own.kl is None and args.use_bias_correction_kl,
        by_response=by_response(args),
        correction=Correction.of(args),
        reshaped=sampling.reshaping(vars(args)),
        shaping=list(map(acting, own.shaping)),
        value=own.value or Value(),
        entropy_coef=args.entropy_coef,
        stop_kl=own.stop_kl,
        exploration=own.exploration,
        turns=Turns(environment_of(own.environment), own.turns, own.turn_discount) if own.environment else None,
        abstains=own.abstained != "stop",
        keeps_equal=own.equal_groups == "keep",
        resamples=own.equal_groups == "resample",
        keeps_truncated=own.truncated == "keep",
        fallback=fallback,
    )


def by_response(args: trl.GRPOConfig) -> bool:
    """Whether ratios are of whole responses."""
    return bool(args.importance_sampling_level == "sequence")


def _policy_loss(args: trl.GRPOConfig) -> PolicyLoss:
    from rlhf_plugins.recipe.public import component

    name, options = "clip", {"epsilon": args.epsilon, "epsilon_high": args.epsilon_high}
    if args.loss_type == "cispo":  # whose limit TRL takes from these as it is, not as a distance from 1
        name, options = "cispo", {"limit": args.epsilon if args.epsilon_high is None else args.epsilon_high}
    elif args.loss_type == "sapo":
        name, options = "sapo", {"tau_pos": args.sapo_temperature_pos, "tau_neg": args.sapo_temperature_neg}
    elif by_response(args):
        name = "gspo"
    elif args.delta is not None:
        name, options = "dual_clip", {"epsilon": args.epsilon, "limit": args.delta}
    found: PolicyLoss = component("policy_loss", name, **options)
    return found


def obstacle_of(trainer: Any, given: Mapping[str, Any], own: OnlineOptions) -> str | None:
    """The first thing about a trainer, built with these arguments, that the engine does not compute; None if none."""
    return next(_obstacles(trainer, given, own), None)


def _obstacles(trainer: Any, given: Mapping[str, Any], own: OnlineOptions) -> Iterator[str]:
    args = trainer.args
    yield from (f"{name}=" for name in ("tools", "rollout_func", "environment_factory") if given.get(name))
    if trainer._is_vlm:
        yield "a processor of images"
    if any(getattr(trainer._tokenizer, name, None) for name in ("response_template", "response_schema")):
        yield "a tokenizer that parses responses"
    yield from unusual_adapter(trainer.model)
    if trainer.aux_loss_enabled:
        yield "the auxiliary loss of a mixture of experts"
    yield from _of_the_loss(args, own)
    yield from (f"{k}={getattr(args, k)!r}" for k, off in THEIRS_ALONE.items() if getattr(args, k) not in (off, None))
    if args.steps_per_generation % args.gradient_accumulation_steps:
        yield "an optimizer step that learns from several rollouts"
    yield from unusual_launch(trainer)
    if router := random_router(trainer.model):
        yield f"{router}, which draws experts at random in training, where ratios start at 1 online"
    if (place := dropout(trainer.model)) and not args.disable_dropout:
        yield f"dropout: {place}, but without dropout ratios start at 1 online: write disable_dropout: true"


def _of_the_loss(args: trl.GRPOConfig, own: OnlineOptions) -> Iterator[str]:
    if own.advantage is None and args.scale_rewards not in ADVANTAGES:
        yield f"scale_rewards={args.scale_rewards!r}"
    if not (own.policy_loss and own.reduction) and args.loss_type not in REDUCTIONS:
        yield f"loss_type={args.loss_type!r} (it has {', '.join(REDUCTIONS)})"
    if own.policy_loss is None:
        if not 0 < args.epsilon < 1:
            yield f"epsilon={args.epsilon}"
        if args.epsilon_high is not None and (args.delta is not None or args.epsilon_high <= 0):
            yield f"epsilon_high={args.epsilon_high} with delta={args.delta}"
        if args.importance_sampling_level not in ("token", "sequence"):
            yield f"importance_sampling_level={args.importance_sampling_level!r}"
        if args.loss_type in UNCLIPPED and by_response(args):
            yield f"loss_type={args.loss_type!r} with importance_sampling_level='sequence'"
        if args.delta is not None and by_response(args):
            yield f"delta={args.delta} with importance_sampling_level='sequence'"
        if args.delta is not None and args.delta <= 1 + args.epsilon:
            yield f"delta={args.delta}, within the clip"
    if args.beta < 0:
        yield f"beta={args.beta}"
