"""What scores a rollout."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from rlhf_plugins.contract.component import Earlier, one_for_each, uses
from rlhf_plugins.contract.function_logs import logs_of
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.on_disk import OnDisk
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.reward_rows import distinct
from rlhf_plugins.contract.run_kinds import Generator, Reward
from rlhf_plugins.data.functions import LOGS, OfSamples
from rlhf_plugins.data.returned_dicts import misreturned
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_plugins.contract.handles import Policy
    from rlhf_plugins.contract.rows import Samples
    from rlhf_plugins.contract.run import Run
    from rlhf_plugins.contract.run_kinds import RewardFunction

    Read = Callable[[Samples], Samples]  # the same texts in other tokens


@dataclass(frozen=True)
class Model(Reward, takes={"reward"}):
    """A reward model or an ensemble that an earlier stage trained."""

    stage: Annotated[
        str | None, Field(description="the stage that trained it; null is the latest that did"), Earlier("reward")
    ] = None

    @property
    def part_name(self) -> str:
        """The stage's name, where it is given."""
        return self.stage or super().part_name

    def build(self, run: Run) -> RewardFunction:
        """Raises RunError where no earlier stage trained a reward model, or none of that name did."""
        return cast("RewardFunction", run.reward(self.stage))  # a handle, which may be called


@dataclass(frozen=True)
class Saved(Reward):
    """A reward model or an ensemble of another run, or in a folder."""

    path: Annotated[
        str, OnDisk("#"), Field(min_length=1, description="RUN, RUN#STAGE, or the folder that a stage saved it in")
    ]

    def missing(self) -> dict[str, str]:
        """The folder or the stage, where it is not there."""
        from rlhf_plugins.data.other_run import missing_rewards

        return missing_rewards(self.path)

    def saved_aggregation(self) -> Mapping[str, Any] | None:
        """See `Reward`; it is read from the description of the ensemble in the folder."""
        from rlhf_plugins.data.file_names import ENSEMBLE
        from rlhf_plugins.data.files import read_json
        from rlhf_plugins.data.other_run import saved_folder

        try:
            found = read_json(saved_folder(self.path, "rewards") / ENSEMBLE)["aggregation"]
        except (RunError, OSError, ValueError, LookupError, TypeError):
            return None  # of a single model; what is damaged says so when it is opened
        return found if isinstance(found, Mapping) else None

    def build(self, run: Run) -> RewardFunction:
        """Raises RunError where the folder holds none, or it does not load."""
        from rlhf_plugins.data.other_run import saved_folder
        from rlhf_plugins.reward_models.opening import reward_function

        return reward_function(saved_folder(self.path, "rewards"), run)


@dataclass(frozen=True)
class Gold(Reward, reads_gold=True):
    """The data's own true reward; only simulated data has one. An upper bound, never a result."""

    def build(self, run: Run) -> RewardFunction:
        """Raises RunError when the truth is unknown."""
        gold = run.data.gold
        if gold is None:
            raise RunError("reward: gold needs data whose true reward is known, such as format sandbox")

        def score(samples: Samples) -> Sequence[float]:
            return [gold(str(p), r)["total"] for p, r in zip(samples.prompts, samples.responses, strict=True)]

        return score


@dataclass(frozen=True)
class Weighted(Reward):
    """sum_i w_i r_i over several sources, each on its own scale; a weight may be negative.

    If a source gives a number per token, all are summed token by token; a source with one number per response counts at
    the last token. The mean of each source, without its weight, is a curve such as `reward/number_match`, or of a
    function of yours `reward/FUNCTION`; so are the further numbers of one that gives dicts, `reward/FUNCTION/format`.
    Of two with one name the second is `length_2`.
    """

    parts: tuple[Reward, ...] = uses("reward")
    weights: Annotated[list[float] | None, Field(description="w, one per part; null is 1 for each")] = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts: at least one reward")
        one_for_each(self.weights, self.parts, "parts")

    def part_names(self) -> list[str]:
        """A different name for each of its parts."""
        return distinct([part.part_name for part in self.parts])

    def build(self, run: Run) -> RewardFunction:
        """Raises RunError as its parts do; what it builds raises ComponentError, which names the part that fails."""
        from rlhf_plugins.reward_models.composed import Composed
        from rlhf_plugins.reward_models.handle import reward_handle

        weights = self.weights or [1.0] * len(self.parts)
        parts = [reward_handle(part.build(run)) for part in self.parts]  # each is waited for where it is unavailable
        names = self.part_names()

        def score(samples: Samples) -> Prediction:
            found = [part(samples) for part in parts]
            return replace(_sum(weights, found, samples), dimensions=_by_part(names, found))

        return Composed(score, parts)


@dataclass(frozen=True)
class Implicit(Reward):
    """beta (log pi - log pi_ref) of a response, the reward that a DPO policy implies (Rafailov et al. 2023, section 5).

    It is known up to a number per prompt: responses to one prompt can be compared. A policy of another base, which has
    other tokens, reads the text of a response.
    """

    policy: Generator = uses("generator")
    reference: Generator = uses("generator", "base")
    beta: Annotated[float, Field(gt=0, description="as in the policy's training")] = 0.1
    by_token: Annotated[bool, Field(description="give each token its own part")] = False

    def build(self, run: Run) -> RewardFunction:
        """Raises RunError when one does not load, or has other tokens than the run's base where each gets a number."""
        policy, reference = self.policy.build(run), self.reference.build(run)
        reads = [_reader(each, run) for each in (policy, reference)]
        if any(reads):
            return self._of_texts(policy, reference, reads)

        def score(samples: Samples) -> Prediction:
            log_ratio = policy.log_probs(samples) - reference.log_probs(samples)
            tokens = self.beta * log_ratio.float().cpu()  # (B, T)
            return Prediction(tokens.sum(1), tokens=tokens if self.by_token else None)

        return score

    def _of_texts(self, policy: Policy, reference: Policy, reads: Sequence[Read | None]) -> RewardFunction:
        if self.by_token:
            raise RunError(
                "reward implicit: by_token: the policy or the reference has other tokens than the run's base"
            )

        def score(samples: Samples) -> Prediction:
            own, other = (
                one.log_probs(read(samples) if read else samples).sum(1).float().cpu()
                for one, read in zip((policy, reference), reads, strict=True)
            )
            return Prediction(self.beta * (own - other))

        return score


@dataclass(frozen=True)
class Python(OfSamples, Reward):
    """A Python function with the signature of TRL's `reward_funcs`.

    It is called with `prompts`, `completions`, `completion_ids` and the prompts' columns, as far as it takes them, and
    returns a number per completion, None where it abstains, or a dict: its `score` is the reward, and the mean of every
    further number a curve, `reward/KEY`. To messages, a completion is a list with one message. An `async` function is
    run to its end. `log_metric(name, value)` and `log_extra(column, values)` are TRL's: curves, and columns of the
    table of samples. `trainer_state` is TRL's trainer's: a recipe does not give it.
    """

    gives = LOGS

    @property
    def part_name(self) -> str:
        """The function's name."""
        return self.path.rpartition(":")[2]

    def missing(self) -> dict[str, str]:
        """The function, where it or its file is not there, or where its code returns what is no reward."""
        return super().missing() or misreturned(self.path)

    def more(self, samples: Samples) -> dict[str, Any]:
        """`log_metric` and `log_extra`."""
        return logs_of(samples, self.path)

    def build(self, run: Run) -> RewardFunction:
        """Raises RunError when there is no such function, or its module cannot be imported, as do its errors."""
        function = self.of_samples("reward")
        return lambda samples: _fitting(function(samples), samples, self.path)


def _reader(policy: Policy, run: Run) -> Read | None:
    """What gives a policy its own tokens; None where they are those of the run's base."""
    from rlhf_plugins.engine.weights.loading import load_row_encoder
    from rlhf_plugins.reward_models.handle import reader

    own = getattr(policy, "encoder", None)
    return None if own is None else reader(own, load_row_encoder(run.base))


def _fitting(answer: Any, samples: Samples, path: str) -> Prediction:
    """A function's answer. Raises RunError in its name where it does not fit the completions."""
    from rlhf_plugins.contract.answers import rewards
    from rlhf_plugins.contract.reward_rows import Wrong

    try:
        return rewards(answer, samples)
    except Wrong as wrong:
        raise RunError(f"reward: {path} {wrong}") from wrong


def _by_part(names: Sequence[str], parts: Sequence[Prediction]) -> dict[str, Tensor]:
    """The reward of each part by its name, NaN where it abstains, and by `part/name` its own dimensions."""
    found = {}
    for name, part in zip(names, parts, strict=True):
        silent = part.abstained
        found[name] = part.reward if silent is None else part.reward.masked_fill(silent, math.nan)
        found |= {f"{name}/{own}": values for own, values in part.dimensions.items()}
    return found


def _sum(weights: Sequence[float], parts: Sequence[Any], samples: Samples) -> Prediction:
    """sum_i w_i r_i of predictions; it abstains where a part does."""
    import torch

    from rlhf_plugins.arithmetic.objectives import at_the_end, lengths_and_mask

    reward: Any = sum(weight * part.reward for weight, part in zip(weights, parts, strict=True))
    silent = [part.abstained for part in parts if part.abstained is not None]
    abstained = torch.stack(silent).any(0) if silent else None
    if all(part.tokens is None for part in parts):
        return Prediction(reward, abstained=abstained)
    _, mask = lengths_and_mask(samples.response_ids)
    rows = [at_the_end(part.reward, mask) if part.tokens is None else part.tokens for part in parts]
    tokens: Any = sum(weight * row for weight, row in zip(weights, rows, strict=True))
    return Prediction(reward, tokens=tokens, abstained=abstained)


@hookimpl
def register_reward() -> dict[str, type]:
    """The bundled rewards."""
    return {"gold": Gold, "implicit": Implicit, "model": Model, "python": Python, "saved": Saved, "weighted": Weighted}
