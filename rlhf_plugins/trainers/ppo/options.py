"""The options of online training: its objective, and options that are no components."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from rlhf_plugins.contract.on_disk import OnDisk
from rlhf_plugins.contract.rows import GoldReward
from rlhf_plugins.contract.run import Adapter

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_plugins.contract.interfaces import KL, Advantage, PolicyLoss, Reduction, Shaping
    from rlhf_plugins.contract.records import Prediction
    from rlhf_plugins.contract.rollout import ScoredResponses
    from rlhf_plugins.contract.rows import Samples
    from rlhf_plugins.contract.run_kinds import EnvironmentFunction
    from rlhf_plugins.trainers.ppo.importance import Correction
    from rlhf_plugins.trainers.watching.monitoring import Monitors

ROUNDS = 10  # at most, of further prompts in place of those whose responses score alike


@dataclass(frozen=True)
class Value:
    """How the value head is trained, where an estimator needs one."""

    coef: Annotated[float, Field(ge=0, description="weight of the value loss")] = 0.1  # Huang et al. 2024
    clip: Annotated[float, Field(gt=0, description="how far a value may move, in deviations of returns")] = (
        0.2  # the same
    )
    learning_rate: Annotated[
        float | None, Field(gt=0, description="of the critic's own weights; null is the trainer's")
    ] = None
    network: Annotated[
        Literal["shared", "adapter", "own"] | None,
        Field(
            description="what the head reads: the policy's hidden states, those under an adapter on its base, or those "
            "of a model beside it; `none`: `adapter` where one is given, or copied, else `shared`"
        ),
    ] = None
    adapter: Annotated[
        Adapter | None,
        Field(description="for the value only; `none` trains all weights of a network of its `own`"),
    ] = None
    base: Annotated[
        str | None,
        OnDisk("#", ("sandbox",)),
        Field(description="of a network of its `own`, with the policy's vocabulary; `none`: the policy's"),
    ] = None
    start: Annotated[
        Literal["zero", "reward"],
        Field(description="`reward` begins with a copy of the reward model's adapter and head, on an adapter"),
    ] = "zero"
    warmup_steps: Annotated[
        int, Field(ge=0, description="first steps in which the critic's own weights alone learn")
    ] = 0

    def __post_init__(self) -> None:
        if self.network == "shared" and self.adapter:
            raise ValueError("adapter: the network is shared with the policy; write network: adapter, or own")
        if self.base and self.network != "own":
            raise ValueError("base: only a network of the critic's own has one; write network: own")
        if self.start == "reward" and (self.adapter or self.network not in (None, "adapter")):
            raise ValueError("start: reward brings the reward model's own adapter; leave `network` and `adapter` out")

    def no_policy_step(self, steps: int) -> str:
        """Why a training of so many steps never trains its policy; empty where it does."""
        if steps > self.warmup_steps:
            return ""
        return f"value.warmup_steps: {self.warmup_steps}, but of {steps} steps none is left for the policy; write fewer"

    @property
    def reads(self) -> Literal["shared", "adapter", "own"]:
        """The network, by name."""
        return self.network or ("adapter" if self.adapter or self.start == "reward" else "shared")


@dataclass(frozen=True)
class Exploration:
    """Sampling from (1 - epsilon) pi + epsilon pi', where pi' is the policy at another temperature."""

    epsilon: Annotated[float, Field(gt=0, lt=1, description="share of the exploring policy")] = 0.05
    temperature: Annotated[float, Field(gt=0, description="of the exploring policy; the larger, the more uniform")] = (
        2.0
    )


@dataclass(frozen=True)
class Table:
    """The responses that are kept in `samples.jsonl` while the policy trains, and shown in the report."""

    every: Annotated[int, Field(ge=1, description="rollouts from one entry to the next")] = 10
    rows: Annotated[int, Field(ge=0, description="responses of an entry, each of another prompt")] = 4


@dataclass(frozen=True)
class Oversight:
    """What is recorded of a training, and who watches it."""

    table: Table = Table()
    gold: GoldReward | None = None  # the true reward, where the data has one
    monitors: Monitors | None = None
    listen: Callable[[int, Sequence[Mapping[str, Any]]], None] | None = None  # called with the rows of the table


@dataclass(frozen=True)
class Turns:
    """Conversations in place of single responses; each turn is paid with the later ones of its conversation."""

    environment: EnvironmentFunction  # writes what follows a response
    most: int  # turns of the policy in a conversation
    discount: float  # per turn


@dataclass(frozen=True)
class Objective:
    """What the policy maximises, as built components and numbers."""

    score: Callable[[Samples], Prediction]
    advantage: Advantage
    policy_loss: PolicyLoss
    reduction: Reduction
    kl: KL | None = None  # None: there is no reference
    shaping: Sequence[Callable[[ScoredResponses], Tensor]] = ()
    value: Value = Value()
    entropy_coef: float = 0.0  # Huang et al. 2024
    stop_kl: float | None = None  # nats per token
    exploration: Exploration | None = None
    turns: Turns | None = None  # None: a rollout is single responses
    abstains: bool = True  # whether the reward may abstain; the responses are then left out
    keeps_equal: bool = True  # whether groups whose scores are all equal are in the loss
    resamples: bool = False  # whether further prompts are sampled in the place of groups that are not
    keeps_truncated: bool = True  # whether responses that did not end by themselves are in the loss
    fallback: Callable[[Samples], Prediction] | None = None  # scores the responses for which `score` abstains
    weighs_kl: bool = False  # whether KL in the loss is times r, which makes it unbiased (DeepSeek-AI 2025, V3.2)
    by_response: bool = False  # whether this r is that of the whole response, the geometric mean of its tokens'
    correction: Correction | None = None  # for another sampler than the policy
    reshaped: Sequence[str] = ()  # options under which what samples has another distribution than the policy
    alike: bool = False  # tokens weigh alike in all minibatches of a rollout: 1 / their mean number in a minibatch

    @property
    def compares_groups_alone(self) -> bool:
        """Whether nothing but differences between the scores of responses to one prompt moves the policy."""
        pulls = self.kl is not None and self.kl.coef != 0
        grouped = self.advantage.min_group > 1 and not self.advantage.uses_batch_mates
        return grouped and not pulls and not self.entropy_coef


def no_groups(asked: str, advantage: Advantage | None, shaping: Sequence[Shaping], turns: int) -> str:
    """Why `equal_groups` cannot be what is asked, in words that follow the option; empty where it can.

    Args:
        asked: `keep`, `drop` or `resample`.
        advantage: None is one that compares the responses to a prompt.
        shaping: the shaping of the rewards.
        turns: the turns of a conversation, at most.
    """
    if asked == "keep":
        return ""
    if advantage is not None and advantage.min_group == 1:
        why = "leaves out responses that differ from no other to their prompt, and the advantage compares none"
        return f"{asked} {why}"
    if asked == "resample" and any(each.ranks_rollout for each in shaping):
        return "resample shapes the rewards of further prompts by themselves, and a shaping compares those of a rollout"
    if asked == "resample" and turns > 1:
        return "resample replaces single responses, and with an environment a rollout is conversations"
    return ""


def no_conversations(advantage: Advantage | None, use_vllm: bool) -> str:
    """Why rollouts cannot be conversations, in words that follow `environment`; empty where they can."""
    if advantage is not None and advantage.reads_baseline:
        return "does not go with an advantage that compares with a greedy response, as remax does; take another one"
    return "was not tried with use_vllm, which reads prompts by their places; leave one of them out" if use_vllm else ""


def no_comparison(group: int, turns: int, best: str, fallback: bool) -> str:
    """Why a reward that compares the responses to a prompt has one without another; empty where it has none.

    Args:
        group: responses that are sampled to a prompt.
        turns: the turns of a conversation, at most.
        best: the number by which the best weights are chosen.
        fallback: whether it is asked where another reward abstains.
    """
    if fallback:
        return "fallback: it scores those alone on which the reward abstains: take another reward"
    if group == 1:
        return "trainer.num_generations: one is sampled: write 2 or more"
    if turns > 1:
        return "environment: a later turn of a conversation has no other: leave it out"
    if best.removeprefix("eval_").partition("/")[0] == "reward":  # or a part of it
        return (
            "trainer.metric_for_best_model: a held-out evaluation samples one, and so measures no reward: take another "
            "number, such as that of the task reward_wins"
        )
    return ""
