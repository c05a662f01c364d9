"""The sizes of what a stage computes and keeps in memory, for a forecast before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rlhf_plugins.contract.interfaces import Pooling, RewardHead

Phase = Literal["train", "reference", "scoring", "generation", "evaluate"]
PROMPT_TOKENS = 512  # tokens of the longest prompt, where no option limits it
PLENTY = 100_000  # prompts: more than any limit on tokens allows
RANKED = 4  # responses to a prompt, where a loss reads rankings
MARGIN = 0.08  # the error of a forecast peak, as a share of it


def near(peak: float, memory: float) -> bool:
    """Whether a forecast peak is within the forecast's error of a card's memory, given in the same unit."""
    return abs(peak - memory) <= MARGIN * peak


@dataclass(frozen=True)
class Work:
    """A forward pass, a training step or a generation of its largest size.

    Args:
        phase: what it is part of.
        does: a forward and a backward pass, a forward pass, or sampling.
        prompts: at once.
        responses: to each prompt.
        prompt_tokens: the prompt tokens of the longest prompt; None where no option limits it.
        response_tokens: the response tokens of the longest response.
        tokens: most tokens laid out at once, padding included; of sampling, most tokens in the cache. None is no limit.
        entropy: whether entropies are computed, with gradients in a training step.
        values: whether a value head reads the hidden states.
        pooling: the pooling of a reward model; None is a language model, of which log-probabilities are computed.
        head: the head of a reward model.
        rewards: whether it is a reward model, of the usual pooling and head where none is given.
    """

    phase: Phase
    does: Literal["learn", "score", "sample"]
    prompts: int
    responses: int
    prompt_tokens: int | None
    response_tokens: int
    tokens: int | None = None
    entropy: bool = False
    values: bool = False
    pooling: Pooling | None = None
    head: RewardHead | None = None
    rewards: bool = False


@dataclass(frozen=True)
class Workload:
    """All that a stage computes, and what it keeps in memory meanwhile.

    Args:
        works: in any order; the largest one is the stage's peak.
        optimizer: its name in transformers; None where nothing is trained.
        checkpointing: whether activations are computed again in the backward pass.
        precision: `bf16`, `fp16` or `fp32` under autocast; None: what the device has.
        adapters: on the base, the trained one included.
        models: whole models beside the one that is trained, frozen.
        quantization: the quantization of its base, where it has one of its own: nf4, int8 or `none`.
    """

    works: Sequence[Work]
    optimizer: str | None = None
    checkpointing: bool = False
    precision: Literal["bf16", "fp16", "fp32"] | None = None
    adapters: int = 1
    models: int = 0
    quantization: str | None = None


@dataclass(frozen=True)
class Known:
    """What is known of a recipe before anything is loaded, from which a stage works out its length.

    Args:
        rows: about how many rows there are to train on; None is unknown.
        max_length: the recipe's, in tokens.
        policies: the base, and those that stages before it make.
        rewards: whether a stage before it makes a reward model.
        held_out: prompts of each kind that are held out; None is unknown.
        prompts: about how many prompts there are to sample from while it trains; None is unknown.
        below: the path or name of the model that the base was trained from, where the base is a policy; else empty.
        positions: tokens that the base takes; None is unknown.
    """

    rows: int | None = None
    max_length: int | None = None
    policies: int = 1
    rewards: bool = False
    held_out: tuple[int, ...] | None = None
    prompts: int | None = None
    below: str = ""
    positions: int | None = None


@dataclass(frozen=True)
class Kept:
    """How many of its rows a stage trains on, as `rlhf check` finds without weights.

    Args:
        taken: rows, pairs or prompts that it trains on.
        looked: rows that were read, from the first on.
        left_out: how many were left out or cut, by reason.
        unit: a word for what is taken.
        rows: all rows; None where the check did not read them all.
    """

    taken: int
    looked: int
    left_out: Mapping[str, int]
    unit: str
    rows: int | None = None

    def of(self, rows: int | None) -> int | None:
        """About how many of so many rows it takes."""
        return None if rows is None else round(rows * self.taken / self.looked)

    @property
    def words(self) -> str:
        """Both numbers and the reasons; empty where nothing is left out or cut."""
        reasons = ", ".join(f"{count:,} x {reason}" for reason, count in self.left_out.items() if count)
        if not reasons:
            return ""
        alike = self.unit in ("rows", "prompts")
        taken, of = f"{self.taken:,}" if alike else f"{self.taken:,} {self.unit}", self.unit if alike else "rows"
        every = "" if self.rows == self.looked else "the first "
        beyond = f" of {self.rows:,}" if self.rows not in (None, self.looked) else ""
        return f"{taken} of {every}{self.looked:,}{beyond} {of} (left out or cut: {reasons})"


@dataclass(frozen=True)
class Course:
    """How long a stage is by its options, in one process.

    Args:
        steps: steps of the optimizer; None where it takes none, or where they depend on an unknown number of rows.
        sequences: about how many prompts with a response it trains on, samples or scores; None is unknown.
        words: steps, episodes and tokens for people.
        passes: about how many such sequences each phase of the stage's workload computes; empty where that is unknown.
        refused: why a run would not begin it; empty where nothing is known against it.
    """

    steps: int | None
    sequences: int | None
    words: str
    passes: Mapping[Phase, int] = field(default_factory=dict)
    refused: str = ""
