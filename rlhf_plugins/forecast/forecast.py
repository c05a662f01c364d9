"""The memory that each stage of a recipe will take, phase by phase, and whether a card holds it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from rlhf_plugins.contract.run import Base
from rlhf_plugins.contract.workload import PROMPT_TOKENS, Course, Work, Workload, near
from rlhf_plugins.engine import set_engine
from rlhf_plugins.errors import RunError
from rlhf_plugins.forecast.cards import MIB, Card
from rlhf_plugins.forecast.shapes import configuration

if TYPE_CHECKING:
    from rlhf_plugins.contract.run_kinds import Stage
    from rlhf_plugins.forecast.traces import Bytes, Setting
    from rlhf_plugins.recipe.assemble import Assembled
    from rlhf_plugins.recipe.check import AnyRecipe

Lengths = tuple[int, int]

logger = logging.getLogger(__name__)

# Beyond live tensors: of 8 measured training steps on an H200, the trace was .1 to 13% below what torch allocated.
WORKSPACES, SHARE = 64 * MIB, 0.03
OVERHEAD = "kernels' workspaces"
RESERVED = 1.06  # what torch reserves of the driver is 1.02 to 1.12 of what it allocates, in the median this
CONTEXT = 783 * MIB  # of CUDA, after the first matrix product
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}


@dataclass(frozen=True)
class StageForecast:
    """One stage.

    Args:
        name: the name as the recipe has it.
        phases: bytes by consumer at the peak of each phase; empty where it is unknown what the stage computes.
        card: what it is to run on; None where that is unknown.
        unknown: why there is no forecast.
        assumed: fast paths that are counted on, by their names; each process tries them on its card before their use.
    """

    name: str
    phases: Mapping[str, Bytes]
    card: Card | None
    unknown: str = ""
    assumed: frozenset[str] = frozenset()

    @property
    def largest(self) -> str:
        """The phase of the peak."""
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()), default="")

    @property
    def consumers(self) -> Bytes:
        """Bytes by consumer at the stage's peak, the largest first."""
        found = self.phases.get(self.largest, {})
        return dict(sorted(found.items(), key=lambda one: -one[1]))

    @property
    def allocated_bytes(self) -> int:
        """What torch allocates at the peak, as `torch.cuda.max_memory_allocated` has it."""
        return sum(self.consumers.values())

    @property
    def peak_bytes(self) -> int:
        """What the card must have: also what torch keeps in reserve, and CUDA's own."""
        return round(self.allocated_bytes * RESERVED) + CONTEXT if self.phases else 0

    @property
    def fits(self) -> bool | None:
        """Whether the card holds it; None where the stage or the card is unknown."""
        return None if self.card is None or not self.phases else self.peak_bytes <= self.card.bytes

    @property
    def uncertain(self) -> bool:
        """Whether the answer lies within the error of the forecast."""
        if self.fits is None:
            return True
        assert self.card is not None
        return near(self.peak_bytes, self.card.bytes)

    @property
    def too_large(self) -> bool:
        """Whether the card does not hold it by the forecast, which may err where it is uncertain."""
        return self.fits is False

    @property
    def tight(self) -> bool:
        """Whether the card does not hold it, or only within the error of the forecast."""
        return self.too_large or (self.fits is True and self.uncertain)

    @property
    def verdict(self) -> str:
        """Whether a card holds it, in words."""
        if self.fits is None:
            return self.unknown or "no card given"
        return "uncertain" if self.uncertain else "fits" if self.fits else "does not fit"


@dataclass(frozen=True)
class Forecast:
    """All stages of a recipe, in order."""

    stages: Sequence[StageForecast]
    card: Card | None

    def json(self) -> dict[str, Any]:
        """For other programs; `fits` is null where the stage or the card is unknown."""
        return {
            "stages": [
                {
                    "name": one.name,
                    "peak_bytes": one.peak_bytes,
                    "allocated_bytes": one.allocated_bytes,
                    "consumers": one.consumers,
                    "fits": one.fits,
                    "uncertain": one.uncertain,
                    "assumed": sorted(one.assumed),
                }
                for one in self.stages
            ],
            "card_bytes": None if self.card is None else self.card.bytes,
        }

    @property
    def needed(self) -> int:
        """The largest peak of all stages, in bytes."""
        return max((one.peak_bytes for one in self.stages), default=0)

    @property
    def too_large(self) -> list[StageForecast]:
        """The stages that the card does not hold."""
        return [one for one in self.stages if one.too_large]


def forecast(assembled: Assembled, card: Card | None) -> Forecast:
    """The forecast of an assembled recipe.

    Raises:
        RunError: the base's configuration is not there, contradicts the recipe, or its adapter matches no module.
    """
    config = configuration(assembled.base)
    refuse_contradictions(assembled, config, card)
    return Forecast([of_place(place, assembled, config, card) for place in range(len(assembled.stages))], card)


def of_place(place: int, assembled: Assembled, config: Any, card: Card | None) -> StageForecast:
    """The forecast of the stage at a place of a recipe, by its engine. Raises RunError as `of_stage`."""
    with set_engine(assembled.engine) if assembled.engine != "auto" else nullcontext():
        return of_stage(assembled.stages[place], assembled.base, config, card)


def of_stage(stage: Stage, base: Base, config: Any, card: Card | None) -> StageForecast:
    """The forecast of one stage. Raises RunError where its adapter matches no module."""
    from rlhf_plugins.forecast.traces import assumed, traced

    workload = stage.workload(base.adapter)
    if workload is None:
        return StageForecast(stage.name, {}, card, "nobody knows what this stage computes")
    phases: dict[str, Bytes] = {}
    paths: frozenset[str] = frozenset()
    for work in workload.works:
        try:
            with _silent():
                asked = config, _whole(_within(work, stage, base, config)), _setting(workload, base, card)
                found = traced(*asked)
                paths |= assumed(*asked)
        except RunError:
            raise
        except Exception as error:  # an architecture may need numbers, as a mixture of experts does
            logger.debug("no forecast of %s", stage.name, exc_info=True)
            why = f"{type(config).__name__} cannot be traced without numbers ({type(error).__name__})"
            return StageForecast(stage.name, {}, card, why)
        found[OVERHEAD] = WORKSPACES + round(SHARE * sum(found.values()))
        if sum(found.values()) > sum(phases.get(work.phase, {}).values()):
            phases[work.phase] = found
    return StageForecast(stage.name, phases, card, assumed=paths)


def flops_of_stage(stage: Stage, course: Course, lengths: Lengths, base: Base, card: Card | None) -> float | None:
    """About how many floating-point operations a stage takes, as the engine counts them; None is unknown.

    Args:
        stage: the stage that runs.
        course: how long it is.
        lengths: tokens of a prompt and of a response, in the mean.
        base: whose shape is read.
        card: that it runs on.

    Raises:
        RunError: the base's configuration is not there.
    """
    from rlhf_plugins.forecast.traces import flops

    workload, config = stage.workload(base.adapter), configuration(base)
    if workload is None or not course.passes:
        return None
    total = 0.0
    for work in {one.phase: one for one in reversed(workload.works) if one.phase in course.passes}.values():
        prompt, response = lengths[0], min(lengths[1], work.response_tokens)
        group = _whole(replace(work, prompts=1, prompt_tokens=prompt, response_tokens=response, tokens=None))
        try:
            with _silent():
                each = flops(config, group, _setting(workload, base, card))
        except Exception:  # as in `of_stage`
            logger.debug("no FLOPs of %s", stage.name, exc_info=True)
            return None
        total += each * course.passes[work.phase] / work.responses
    return total


@contextmanager
def _silent() -> Iterator[None]:
    """For the block, torch logs no failure of fake tensors, which becomes a line of the forecast."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def refuse_contradictions(assembled: Assembled, config: Any, card: Card | None) -> None:
    """Raises RunError where precision and quantization contradict one another, the base or the card."""
    own, asked = getattr(config, "quantization_config", None), assembled.base.quantization
    if own is not None and asked:
        how = own.get("quant_method", "quantized") if isinstance(own, dict) else own
        raise RunError(f"quantization: {asked}, but the base is quantized already ({how}); leave one of them out")
    for stage in assembled.stages:
        given = stage.trainer or {}
        if given.get("bf16") and card is not None and not card.bf16:
            why = f"{card.name} does not compute in bfloat16"
            raise RunError(f"stage {stage.name}: trainer.bf16, but {why}; leave it out: losses are scaled in fp16")


def _within(work: Work, stage: Stage, base: Base, config: Any) -> Work:
    """A work with lengths that the recipe and the model's positions allow."""
    lengths, given = base.lengths, stage.trainer or {}
    own = None if "max_length" in given else lengths.max_length
    most = min(filter(None, (own, getattr(config, "max_position_embeddings", None))), default=None)
    if work.prompt_tokens is None:
        prompt = lengths.max_prompt_length or PROMPT_TOKENS
        room = prompt if most is None else max(1, min(prompt, most - work.response_tokens))
        return replace(work, prompt_tokens=room)
    if most is None or work.prompt_tokens + work.response_tokens <= most:
        return work
    return replace(work, prompt_tokens=most // 4, response_tokens=most - most // 4)


def _whole(work: Work) -> Work:
    """A work of a reward model with the parts that most have, where it says none."""
    from rlhf_plugins.recipe.public import component

    if not work.rewards or work.head is not None:
        return work
    return replace(work, pooling=component("pooling", "last_token"), head=component("reward_head", "scalar"))


def _setting(workload: Workload, base: Base, card: Card | None) -> Setting:
    from rlhf_plugins.forecast.fakes import Build
    from rlhf_plugins.forecast.traces import Setting

    dtype = dtype_of(base, card)
    precision = workload.precision or _half(card)
    trains = workload.optimizer is not None
    own = {None: base.quantization, "none": None}.get(workload.quantization, workload.quantization)
    build = Build(own, base.adapter, dtype, trains, workload.checkpointing)
    autocast = PRECISIONS[precision] if trains else None
    return Setting(build, autocast, workload.optimizer, workload.adapters, workload.models)


def dtype_of(base: Base, card: Card | None) -> torch.dtype:
    """The precision of weights that are not quantized: half precision where they are frozen."""
    return (base.adapter is not None and PRECISIONS[_half(card)]) or torch.float32


def _half(card: Card | None) -> Literal["bf16", "fp16"]:
    return "bf16" if card is None or card.bf16 else "fp16"


def estimate(recipe: AnyRecipe, overrides: Sequence[str] = (), gpu: str | None = None) -> Forecast:
    """The memory of each stage of a recipe on a GPU, before any weight is loaded; of a sweep where it needs most.

    Args:
        recipe: the recipe as `check_recipe` takes it.
        overrides: `a.b=value`, as on the command line.
        gpu: a card or its memory, such as `rtx4090` or `12GB`; None is this machine's.

    Raises:
        RecipeError: the recipe has a fault.
        RunError: the card is unknown, the base's configuration is not there, or the recipe contradicts them.
    """
    from rlhf_plugins.forecast.advice import largest
    from rlhf_plugins.forecast.cards import card, present
    from rlhf_plugins.recipe.check import load_recipe

    on = card(gpu) if gpu else present()
    return forecast(load_recipe(recipe, largest(recipe, overrides, on).overrides), on)
