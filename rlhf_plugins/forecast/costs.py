"""What the trainings of an algorithm take, so far as it is known before they begin: steps, tokens, peak memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.batches.tokens import RowEncoder
from rlhf_plugins.errors import DataError, RunError
from rlhf_plugins.forecast.cards import Card
from rlhf_plugins.forecast.forecast import flops_of_stage, of_stage
from rlhf_plugins.forecast.shapes import configuration
from rlhf_plugins.recipe.course import of_stages
from rlhf_plugins.report.words import count, duration, flops, memory

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data
    from rlhf_plugins.contract.run_kinds import Stage
    from rlhf_plugins.contract.workload import Course

LOOKED_AT = 256  # prompts whose rows are tokenised for the mean length


class Mean(NamedTuple):
    """Tokens, in the mean."""

    prompt: float
    response: float


@dataclass(frozen=True)
class Costs:
    """The costs of one algorithm.

    Args:
        known: steps of the optimizers; `sequences`, prompts with a response that are trained on or sampled; their
            `tokens` and `flops`, about; `peak_bytes`, the largest of its stages.
        unknown: what is not, with the reason.
        refused: stages that a run would not begin, with the reason.
    """

    known: Mapping[str, float]
    unknown: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def costs(stages: Sequence[Stage], base: Base, data: Data, card: Card | None, mean: Mean | None = None) -> Costs:
    """The costs of an algorithm whose stages are given in order.

    Args:
        stages: the stages that train.
        base: whose shape is read, and no weight.
        data: the rows, loaded.
        card: which is to train; None: one that computes in bfloat16.
        mean: tokens of the rows; None leaves tokens and FLOPs out.
    """
    found: dict[str, float] = {}
    courses = of_stages(stages, base.lengths.max_length, data)
    endless = [name for name, course in courses.items() if course is None or course.steps is None]
    if not endless:
        found["steps"] = sum(course.steps or 0 for course in courses.values() if course)
        found["sequences"] = sum(course.sequences or 0 for course in courses.values() if course)
        if mean is not None:
            found["tokens"] = round(found["sequences"] * (mean.prompt + mean.response))
    refused = {name: course.refused for name, course in courses.items() if course and course.refused}
    unknown = [f"steps of {name}: nothing says how long it is" for name in endless if name not in refused]
    count, uncounted = _flops(stages, courses, base, card, mean) if mean and not endless else (0.0, [])
    peak, why = _peak(stages, base, card)
    found |= {name: value for name, value in (("flops", count), ("peak_bytes", peak)) if value}
    return Costs(found, (*unknown, *uncounted, *why), tuple(f"{name}: {against}" for name, against in refused.items()))


def mean_tokens(data: Data, encoder: RowEncoder) -> Mean | None:
    """Mean tokens of a prompt and of a response, over the training rows of at most `LOOKED_AT` evenly spaced prompts.

    Rows that a training would leave out do not count. None where all are.
    """
    lengths = []
    for group in data.train[:: -(-len(data.train) // LOOKED_AT) or 1]:
        for response in group.responses:
            with suppress(DataError):
                prompt, answer = encoder.encode_within_limit(group.prompt, response)
                lengths.append((len(prompt), len(answer)))
    return Mean(*map(fmean, zip(*lengths, strict=True))) if lengths else None


def _flops(
    stages: Sequence[Stage], courses: Mapping[str, Course | None], base: Base, card: Card | None, mean: Mean
) -> tuple[float, list[str]]:
    """The number for all stages, 0 where that of one is unknown; and the stages where it is."""
    lengths, found = (max(1, round(mean.prompt)), max(1, round(mean.response))), dict[str, float | None]()
    for stage in stages:
        course = courses[stage.name]
        try:
            found[stage.name] = flops_of_stage(stage, course, lengths, base, card) if course else None
        except RunError as error:
            return 0.0, [f"FLOPs: {error}"]
    unknown = [f"FLOPs of {name}: nobody knows what it computes" for name, count in found.items() if count is None]
    return 0.0 if unknown else sum(filter(None, found.values())), unknown


def _peak(stages: Sequence[Stage], base: Base, card: Card | None) -> tuple[int, list[str]]:
    """The largest peak of the stages, in bytes, and of which there is no forecast; 0 where there is none of any."""
    try:
        config = configuration(base)
        forecasts = [of_stage(stage, base, config, card) for stage in stages]
    except RunError as error:
        return 0, [f"memory: {error}"]
    unknown = [f"memory of {one.name}: {one.unknown}" for one in forecasts if one.unknown]
    return max((one.peak_bytes for one in forecasts), default=0) if not unknown else 0, unknown


def card_of(vram: float | None) -> Card | None:
    """A GPU of so many GB of memory."""
    return None if vram is None else Card(f"{vram:g} GB", round(vram * 2**30))


def in_words(cost: Mapping[str, float]) -> str:
    """A cost: `about 12 steps, 96 sequences, 2,100 tokens, 3.10e12 FLOPs, a forecast peak of 1.2 GiB`."""
    counts = [f"{count(cost[name])} {name}" for name in ("steps", "sequences", "tokens") if name in cost]
    peak = [f"a forecast peak of {memory(int(cost['peak_bytes']))}"] if "peak_bytes" in cost else []
    counts += [f"{flops(cost['flops'])} FLOPs"] if "flops" in cost else []
    taken = [f"{duration(cost['seconds'])} by a trial on this machine"] if "seconds" in cost else []
    spent = [f"{flops(cost['spent_flops'])} FLOPs spent on choosing"] if "spent_flops" in cost else []
    return ", ".join([*(["about " + ", ".join(counts)] if counts else []), *peak, *taken, *spent]) or "not known"
