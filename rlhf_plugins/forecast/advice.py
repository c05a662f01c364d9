"""The smallest change of a recipe that a card would hold, as overrides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_plugins.forecast.cards import Card
from rlhf_plugins.forecast.forecast import Forecast, StageForecast, forecast, of_place
from rlhf_plugins.forecast.shapes import configuration

if TYPE_CHECKING:
    from rlhf_plugins.contract.run_kinds import Stage
    from rlhf_plugins.recipe.assemble import Assembled
    from rlhf_plugins.recipe.check import AnyRecipe

FEWEST_TOKENS = 1024  # in one pass, below which a GPU idles


class Change(NamedTuple):
    """Overrides that make a stage smaller.

    Args:
        overrides: the overrides as on the command line.
        effect: what else they change; empty where the training stays the same.
        uncertain: whether the stage then fits only within the error of the forecast.
    """

    overrides: tuple[str, ...]
    effect: str = ""
    uncertain: bool = False

    @property
    def names(self) -> set[str]:
        """The options that it sets."""
        return {one.partition("=")[0] for one in self.overrides}


class Fitted(NamedTuple):
    """A recipe with overrides, and its forecast."""

    overrides: tuple[str, ...]
    forecast: Forecast


class Settled(NamedTuple):
    """A recipe without `seeds` and `sweep`.

    Args:
        overrides: those that turn the recipe into it.
        setting: the setting of the sweep, in words; empty without one.
    """

    overrides: tuple[str, ...]
    setting: str = ""


def largest(recipe: AnyRecipe, overrides: Sequence[str], card: Card | None) -> Settled:
    """The setting of a recipe's sweep that needs the most memory. Raises RecipeError and RunError as `fitted` does."""
    from rlhf_plugins.recipe.check import load_recipe, several
    from rlhf_plugins.recipe.members import SEEDS, SWEEP

    of_settings = {member.group: member for member in several(recipe, overrides)}
    alone = (*overrides, f"{SEEDS}=[]", f"{SWEEP}={{}}")
    every = [Settled((*alone, *one.overrides), name) for name, one in of_settings.items()]
    if len(every) < 2:
        return every[0] if every else Settled(tuple(overrides))
    return max(every, key=lambda one: forecast(load_recipe(recipe, one.overrides), card).needed)


def fitted(recipe: AnyRecipe, overrides: Sequence[str], card: Card | None) -> Fitted:
    """The recipe with fewer tokens or rows at once where the card might not hold it, and the same effective batch.

    A stage gets so few that it fits beyond the error of the forecast, where they can do that, else so few that it fits.
    Of a recipe with a sweep, `overrides` are those of one setting (`largest`).

    Raises:
        RecipeError: the recipe has a fault.
        RunError: as `forecast` does.
    """
    from rlhf_plugins.recipe.check import load_recipe

    given = tuple(overrides)
    assembled = load_recipe(recipe, given)
    found = forecast(assembled, card)
    for place, stage in enumerate(assembled.stages):
        one, tried = found.stages[place], [change for change in changes(stage) if not change.effect]
        own = _until(_clear, recipe, given, place, card, tried) if one.tight else None
        own = own or (_until(_held, recipe, given, place, card, tried) if one.too_large else None)
        given += own.overrides if own else ()
    return Fitted(given, forecast(load_recipe(recipe, given), card))


def advised(recipe: AnyRecipe, overrides: Sequence[str], card: Card | None) -> dict[str, Change | None]:
    """For each stage that the card does not hold, the smallest change with which it would; None where there is none.

    That is one with which it fits beyond the error of the forecast, where there is such.
    """
    from rlhf_plugins.recipe.check import load_recipe

    assembled = load_recipe(recipe, overrides)
    found = forecast(assembled, card)
    return {
        stage.name: _smallest(recipe, overrides, place, card, [*changes(stage), *_of_the_base(assembled)])
        for place, stage in enumerate(assembled.stages)
        if found.stages[place].too_large
    }


def _smallest(
    recipe: AnyRecipe, given: Sequence[str], place: int, card: Card | None, tried: Sequence[Change]
) -> Change | None:
    """The first change with which a stage fits, else the first with which it may."""
    if (clear := _until(_clear, recipe, given, place, card, tried)) is not None:
        return clear
    held = _until(_held, recipe, given, place, card, tried)
    return held and held._replace(uncertain=True)


def changes(stage: Stage) -> Iterator[Change]:
    """What makes a stage smaller, that which changes least first; a later one of a kind goes further."""
    at = f"stages.{stage.name}"
    tokens: Any = getattr(stage, "tokens_per_batch", 0)
    while tokens is None or tokens > FEWEST_TOKENS:
        tokens = 8 * FEWEST_TOKENS if tokens is None else tokens // 2
        yield Change((f"{at}.tokens_per_batch={max(tokens, FEWEST_TOKENS)}",))
    batch, accumulated = _batch(stage)
    while batch > 1 and batch % 2 == 0:
        batch, accumulated = batch // 2, accumulated * 2
        yield Change(
            (
                f"{at}.trainer.per_device_train_batch_size={batch}",
                f"{at}.trainer.gradient_accumulation_steps={accumulated}",
            )
        )
    if stage.trainer and stage.trainer.get("gradient_checkpointing") is False:
        yield Change((f"{at}.trainer.gradient_checkpointing=true",))
    yield from _less_at_once(stage, at)
    yield from _shorter(stage, at)


def _batch(stage: Stage) -> tuple[int, int]:
    """Rows at once and how many such are accumulated, of a stage that nothing else cuts."""
    batch = stage.setting("per_device_train_batch_size")
    if batch is None or hasattr(stage, "tokens_per_batch"):
        return 1, 1
    return batch, stage.setting("gradient_accumulation_steps")


def _less_at_once(stage: Stage, at: str) -> Iterator[Change]:
    if not hasattr(stage, "cache_tokens"):
        return
    from rlhf_plugins.engine.token_budget import CACHE_TOKENS

    tokens = stage.cache_tokens or CACHE_TOKENS
    while tokens > FEWEST_TOKENS:
        tokens = max(tokens // 2, FEWEST_TOKENS)
        yield Change((f"{at}.cache_tokens={tokens}",), "fewer responses are sampled at once, so that they are others")


def _shorter(stage: Stage, at: str) -> Iterator[Change]:
    trainer, optim = stage.trainer or {}, stage.setting("optim")
    if optim is not None and not str(optim).endswith("8bit"):
        yield Change((f"{at}.trainer.optim=paged_adamw_8bit",), "moments in 8 bits")
    name = next((name for name in ("max_completion_length", "max_length") if name in trainer), None)
    if name and trainer[name]:
        yield Change((f"{at}.trainer.{name}={trainer[name] // 2}",), "longer responses are cut or left out")


def _of_the_base(assembled: Assembled) -> Iterator[Change]:
    if assembled.base.adapter is None:
        yield Change(("adapter={r: 16}",), "an adapter is trained in place of all weights")
        yield Change(("adapter={r: 16}", "quantization=nf4"), "an adapter is trained on a base of 4 bits")
    elif assembled.base.quantization != "nf4":
        yield Change(("quantization=nf4",), "frozen weights are rounded to 4 bits")


def _held(one: StageForecast) -> bool:
    return not one.too_large


def _clear(one: StageForecast) -> bool:
    return not one.tight


def _until(
    fits: Callable[[StageForecast], bool],
    recipe: AnyRecipe,
    given: Sequence[str],
    place: int,
    card: Card | None,
    tried: Sequence[Change],
) -> Change | None:
    """The first change with which a stage fits, else the first sum of them; None where all together do not do."""
    everything = {one.partition("=")[0]: one for change in tried for one in change.overrides}
    if not tried or not fits(_stage(recipe, (*given, *everything.values()), place, card)):
        return None
    for change in tried:
        if fits(_stage(recipe, (*given, *change.overrides), place, card)):
            return change
    summed: list[Change] = []
    for change in tried:
        summed = [*(one for one in summed if not one.names <= change.names), change]  # which goes further
        overrides = {one.partition("=")[0]: one for each in summed for one in each.overrides}
        if fits(_stage(recipe, (*given, *overrides.values()), place, card)):
            effects = dict.fromkeys(one.effect for one in summed if one.effect)
            return Change(tuple(overrides.values()), "; ".join(effects))
    return None


def _stage(recipe: AnyRecipe, overrides: Sequence[str], place: int, card: Card | None) -> StageForecast:
    from rlhf_plugins.recipe.check import load_recipe

    assembled = load_recipe(recipe, overrides)
    return of_place(place, assembled, configuration(assembled.base), card)
