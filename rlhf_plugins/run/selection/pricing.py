"""What the recipe of each algorithm costs before it runs, made smaller where a card would not hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.rows import Data
from rlhf_plugins.contract.workload import near
from rlhf_plugins.engine.progress import line
from rlhf_plugins.errors import RunError
from rlhf_plugins.forecast.cards import Card
from rlhf_plugins.forecast.costs import Costs, Mean, costs, mean_tokens
from rlhf_plugins.forecast.forecast import forecast
from rlhf_plugins.forecast.words import warnings

if TYPE_CHECKING:
    from rlhf_plugins.recipe.assemble import Assembled

Recipe = dict[str, Any]


@dataclass(frozen=True)
class Priced:
    """A recipe, and what its trainings cost."""

    recipe: Recipe
    costs: Costs


def priced(recipes: Mapping[str, Recipe], data: Data, card: Card | None, reads_base: bool) -> dict[str, Priced]:
    """The price of each algorithm; a line on standard error says which is being computed.

    Args:
        recipes: the recipes of the algorithms, on one base.
        data: their rows, loaded.
        card: the card that is to train; None is not known.
        reads_base: whether the base's tokenizer may be loaded, which a hub may have to send.

    Raises:
        RecipeError: a recipe has a fault.
    """
    from rlhf_plugins.recipe.check import load_recipe

    found: dict[str, Priced] = {}
    mean: Mean | None = None
    why = ["tokens and FLOPs: the tokenizer was not loaded; name a base"]
    for place, (name, recipe) in enumerate(recipes.items(), 1):
        line(f"counting the cost of {name}, {place} of {len(recipes)}")
        assembled = load_recipe(recipe)
        if not found and reads_base:
            mean, why = _mean(assembled, data)
        made = _smaller(recipe, assembled, data, card, mean)
        found[name] = Priced(made.recipe, replace(made.costs, unknown=(*made.costs.unknown, *why)))
    return found


def memory_warnings(recipe: Recipe, card: Card | None) -> list[str]:
    """A line for each stage of a recipe, its evaluation included, that a card may not hold."""
    from rlhf_plugins.recipe.check import load_recipe

    if card is None:
        return []
    try:
        return [f"warning: {each}" for each in warnings(forecast(load_recipe(recipe), card))]
    except RunError:  # the costs say why there is no forecast
        return []


def _mean(assembled: Assembled, data: Data) -> tuple[Mean | None, list[str]]:
    """Tokens of a row, and why it is unknown where it is."""
    from rlhf_plugins.engine.weights.loading import load_row_encoder

    try:
        mean = mean_tokens(data, load_row_encoder(assembled.base))
    except (RunError, OSError, ValueError) as error:
        return None, [f"tokens and FLOPs: {error}"]
    return mean, [] if mean else ["tokens and FLOPs: the base takes no row"]


def _smaller(recipe: Recipe, assembled: Assembled, data: Data, card: Card | None, mean: Mean | None) -> Priced:
    """The recipe itself where a card surely holds it, else with fewer tokens or rows at once in the same training."""
    from rlhf_plugins.forecast.advice import fitted
    from rlhf_plugins.recipe.check import load_recipe
    from rlhf_plugins.recipe.mapping import of_mapping
    from rlhf_plugins.recipe.overrides import apply

    whole = Priced(recipe, _costs(assembled, data, card, mean))
    peak = whole.costs.known.get("peak_bytes", 0)
    if card is None or (peak <= card.bytes and not near(peak, card.bytes)):
        return whole
    line(f"looking for a smaller recipe that fits {card.name}")
    overrides = fitted(recipe, (), card).overrides
    changed = apply(of_mapping(recipe), overrides, lambda stage: stage.get("name")).values
    return Priced(changed, _costs(load_recipe(changed), data, card, mean))


def _costs(assembled: Assembled, data: Data, card: Card | None, mean: Mean | None) -> Costs:
    trainings = [stage for stage in assembled.stages if stage.makes & {"policy", "reward"}]
    return costs(trainings, assembled.base, data, card, mean)
