"""What a selector is asked and answers: features of the data, resources, and ranked algorithms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from annotated_types import Gt

PRIORITIES = ("quality", "speed", "stability")


@dataclass(frozen=True)
class Features:
    """What preferences look like, counted on their training and held-out groups; None is what could not be seen.

    `off_policy` is by how many nats a token the rows' responses are less likely, to the policy that is to be trained,
    than its own samples: at 0 they may be its own, and below 0 they are likelier.
    """

    pairs: int  # strictly ordered
    prompts: int
    diversity: float | None = None  # distinct bigrams of the prompts, as a share of all (Li et al. 2016)
    topics: int | None = None
    coverage: float | None = None  # entropy of the topics over its largest value: 1 is even, 0 is one topic
    strength: float | None = None  # mean distance of the chosen from the rejected response, in the annotators' unit
    agreement: float | None = None  # how often two judgements of one pair agree
    noise: float | None = None  # share of judgements that are wrong, if annotators err independently
    contradictions: float | None = None  # pairs that are ordered both ways, as a share of all pairs
    circles: float | None = None  # pairs that lie in a circle a > b > c > a, as a share of all pairs
    longer_wins: float | None = None  # share of pairs, of those that differ in length
    ties: float | None = None  # share of all comparisons
    noise_low: float | None = None  # the 95% interval of the noise, by the number of pairs that were judged again
    noise_high: float | None = None
    judged_again: int | None = None  # pairs with several judgements, or with votes
    off_policy: float | None = None  # nats per token; seen where there is a policy
    off_policy_low: float | None = None  # the 95% interval of its mean over prompts
    off_policy_high: float | None = None
    off_policy_prompts: int | None = None  # prompts that the policy answered; with fewer than 10 none is asked
    off_policy_left_out: int | None = None  # prompts that were drawn and are unreadable or too long

    @property
    def unseen(self) -> tuple[str, ...]:
        """The names of what could not be seen."""
        return tuple(each.name for each in fields(self) if getattr(self, each.name) is None)


@dataclass(frozen=True)
class Resources:
    """What a training may use, and what it is for; None is not known."""

    vram: Annotated[float, Gt(0)] | None = None  # GB of memory of the GPU
    hours: Annotated[float, Gt(0)] | None = None  # of training time
    online: bool | None = None  # whether responses are to be sampled and scored while it trains
    live_reward: bool = False  # the reward is a live judge or a rule, not these pairs alone
    staged: bool = False  # several trainings may follow one another
    latency: Annotated[float, Gt(0)] | None = None  # seconds in which a response has to come
    update_every: Annotated[float, Gt(0)] | None = None  # hours after which the policy is trained again
    priority: Literal["quality", "speed", "stability"] | None = None


@dataclass(frozen=True)
class Situation:
    """What a selector decides on: data, resources, and the algorithms that there are.

    Args:
        features: what is known of the data.
        resources: what may be used.
        algorithms: the names of the algorithms.
        stages: the stages of each algorithm that may be trained.
        costs: what is known of each algorithm before it trains: about how many `steps` of its optimizers, `sequences`
            (prompts with a response, trained on or sampled), `tokens` and `flops`, the forecast `peak_bytes`, and
            `seconds` where a trial timed them.
    """

    features: Features
    resources: Resources
    algorithms: Sequence[str]
    stages: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """An algorithm with the reasons for its place; a score is what the selector expects of it, if it predicts any."""

    algorithm: str
    reasons: Sequence[str] = ()
    possible: bool = True  # it can do what is asked
    score: float | None = None
    low: float | None = None  # lower end of the 95% interval of the score
    high: float | None = None
    cost: Mapping[str, float] = field(default_factory=dict)  # as in `Situation`, and `spent_flops`; empty is not known
