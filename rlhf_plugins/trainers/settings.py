"""What a recipe may set of online training beside its components; numbers and their limits, no arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from rlhf_plugins.contract.rows import GoldReward
from rlhf_plugins.contract.run import Adapter

PLAIN = {  # options of sampling that leave the policy's distribution as it is
    "top_p": 1.0,
    "top_k": 0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "generation_kwargs": None,
    "use_vllm": False,
}


@dataclass(frozen=True)
class Value:
    """How the value head is trained, where an estimator needs one."""

    coef: Annotated[float, Field(ge=0, description="weight of the value loss")] = 0.1  # Huang et al. 2024
    clip: Annotated[float, Field(gt=0, description="how far a value may move from its old one")] = 0.2  # the same
    adapter: Annotated[
        Adapter | None, Field(description="on the base, for the value alone; `none` reads the policy's hidden states")
    ] = None


@dataclass(frozen=True)
class Exploration:
    """Sampling from (1 - epsilon) pi + epsilon pi', pi' the policy at a temperature of its own; large is uniform."""

    epsilon: Annotated[float, Field(gt=0, lt=1, description="share of the exploring policy")] = 0.05
    temperature: Annotated[float, Field(gt=0, description="of the exploring policy")] = 2.0


@dataclass(frozen=True)
class Belts:
    """When a training stops by itself, with a message and the responses at fault in `belts.jsonl`.

    A loss that is not finite always stops it, and so does a reward or advantage.
    """

    equal_rewards: Annotated[
        int, Field(ge=0, description="rollouts in a row that are skipped because all their rewards are equal")
    ] = 10
    min_entropy: Annotated[float, Field(ge=0, lt=1, description="share of the first rollout's entropy")] = 0.01
    max_kl: Annotated[float, Field(gt=0, description="nats per token to the reference")] = 5.0
    max_value: Annotated[
        float, Field(gt=0, description="largest value over the largest sum of rewards to come so far (or 1)")
    ] = 10.0


@dataclass(frozen=True)
class Table:
    """The responses that are kept in `samples.jsonl` while the policy trains, and shown in the report."""

    every: Annotated[int, Field(ge=1, description="rollouts from one entry to the next")] = 10
    rows: Annotated[int, Field(ge=0, description="responses of an entry, each of another prompt")] = 4


@dataclass(frozen=True)
class Oversight:
    """How a training is watched: its table, its belts, and the true reward, where the data knows it."""

    table: Table = Table()
    belts: Belts = Belts()
    gold: GoldReward | None = None
