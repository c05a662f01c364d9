"""Recommends an algorithm for preferences, and writes its recipe. It asks a selector and knows no rule."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from rlhf_plugins.contract.rows import Data
from rlhf_plugins.contract.run import Base
from rlhf_plugins.contract.run_kinds import Selector
from rlhf_plugins.contract.selection import Choice, Features, Resources, Situation
from rlhf_plugins.data.measures.features import features
from rlhf_plugins.engine.progress import line
from rlhf_plugins.errors import RunError
from rlhf_plugins.evaluate.off_policy import off_policy, tried
from rlhf_plugins.forecast.costs import Costs, card_of, in_words
from rlhf_plugins.forecast.ranking import ranked
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.recipe.candidates import ALGORITHMS, candidates, in_a_recipe, with_trainer, within
from rlhf_plugins.recipe.source import write_new
from rlhf_plugins.registry.registry import registry
from rlhf_plugins.run.selection.pricing import Priced, memory_warnings, priced
from rlhf_plugins.run.selection.timing import timed
from rlhf_plugins.sandbox import POLICY

SANDBOX = "sandbox"
DEFAULT = "Qwen/Qwen3-0.6B"
TRAINER = {"learning_rate": 1e-5, "per_device_train_batch_size": 8}
UNTIMED = "seconds: nothing was timed; --base NAME --trial 20 makes each training for 20 s on this machine"
ALONE = "costs are of a training in one process: N take N batches in a step, and N times the prompts in a rollout"
OF_SANDBOX = {"learning_rate": 5e-4, "per_device_train_batch_size": 64}


@dataclass(frozen=True)
class Selected:
    """What was seen, every algorithm in order, and the recipe of the first.

    Args:
        features: the features of the data.
        choices: the best first, each with its cost so far as it is known.
        recipe: the recipe of the first.
        notes: for how many processes the costs are, what is not known of them, when trainings end, why nothing is
            evaluated, and what of the recipe besides its trainings may not fit the GPU.
    """

    features: Features
    choices: Sequence[Choice]
    recipe: dict[str, Any]
    notes: Sequence[str] = ()

    def json(self) -> dict[str, Any]:
        """For other programs; what could not be seen is null."""
        return asdict(self)


def select(
    data: Mapping[str, Any],
    resources: Resources | None = None,
    selector: str | Mapping[str, Any] = "rules",
    base: str | None = None,
    samples: bool = True,
    trial: float | None = None,
) -> Selected:
    """Ranks the algorithms for the rows of a recipe's `data` block.

    Args:
        data: such as `{"format": "preference", "source": "pairs.jsonl"}`.
        resources: what may be used, and what for.
        selector: its name or its spec.
        base: the recipe's base, by whose shape and tokens costs are computed; None: the sandbox's policy for its own
            rows, else the base of the bundled recipes, of which nothing is loaded.
        samples: the samples of the base, where it is known, to see whether the rows are its own.
        trial: seconds for which each training is made on this machine, to know how long all of it takes; None: none.

    Raises:
        DataError: the rows cannot be read, or nothing is preferred.
        PluginError: the selector, or one of its options, is unknown.
        RecipeError: the recipe would have a fault, such as a base that is not there.
        RunError: the selector needs a run, a trial a base, or no algorithm can do what is asked.
    """
    own = data.get("format") == SANDBOX
    loader = component("data_format", {"use": data["format"], **{k: v for k, v in data.items() if k != "format"}})
    judge = _selector(selector)
    asked, name = resources or Resources(), base or (SANDBOX if own else DEFAULT)
    rows = loader.load(Base(str(POLICY) if own else ""), seed=0)
    evaluate, unevaluated = _evaluation(rows)
    shared: dict[str, Any] = {"base": name, "adapter": {"r": 16, "lora_alpha": 32}, "data": dict(data)}
    recipes = {algorithm: {**shared, "stages": _trainings(algorithm, name, asked.hours)} for algorithm in ALGORITHMS}
    for each in recipes.values():  # what a reward judges is made smaller with the trainings, where it must be
        each["stages"] += evaluate if own or any(s["stage"] == "reward_model" for s in each["stages"]) else []
    card = card_of(asked.vram)
    reads_base = bool(base) or own
    if trial is not None and not reads_base:
        raise RunError("--trial: trains the base, and none is named; add --base")
    found = priced(recipes, rows, card, reads_base)
    seen, unseen = features(rows), ["not seen: off_policy: the base was not asked"]
    if samples and reads_base:
        seen, unseen = with_own(seen, recipes["dpo"], rows)
    costs = _with_seconds(found, rows, trial)
    choices = ranked(judge, Situation(seen, asked, tuple(ALGORITHMS)), costs)
    if not choices[0].possible:
        raise RunError("\n".join(f"{c.algorithm}: {'; '.join(c.reasons)}" for c in choices))
    unknown = dict.fromkeys(f"not known: {why}" for one in costs.values() for why in one.unknown)
    recipe = found[choices[0].algorithm].recipe
    if evaluate and recipe["stages"][-1]["stage"] != "evaluate":
        recipe = {**recipe, "stages": [*recipe["stages"], *evaluate]}
    notes = (ALONE, *unseen, *unknown, *_endings(recipe), *unevaluated, *memory_warnings(recipe, card))
    return Selected(seen, choices, recipe, notes)


def _with_seconds(found: Mapping[str, Priced], rows: Data, trial: float | None) -> dict[str, Costs]:
    """The costs of each algorithm, with seconds where a trial times them, and else with why there are none."""
    if trial is None:
        return {name: replace(one.costs, unknown=(*one.costs.unknown, UNTIMED)) for name, one in found.items()}
    sound = {name: one.recipe for name, one in found.items() if not one.costs.refused}
    took, costs = timed(sound, rows, trial), {name: one.costs for name, one in found.items()}
    for name, own in took.items():
        known = {**costs[name].known, **({} if own.seconds is None else {"seconds": own.seconds})}
        costs[name] = replace(costs[name], known=known, unknown=(*costs[name].unknown, *[own.why] * bool(own.why)))
    return costs


def with_own(seen: Features, recipe: Mapping[str, Any], rows: Data) -> tuple[Features, list[str]]:
    """The features with whether responses are those of a recipe's base, which is loaded and sampled; or why not."""
    from rlhf_plugins.engine.policy import open_policy
    from rlhf_plugins.recipe.check import load_recipe

    start = load_recipe(recipe)
    line(f"sampling {recipe['base']}, to see whether the responses are its own")

    def look() -> dict[str, Any]:
        policy = open_policy(start.adapter, start.base)
        return off_policy(policy, rows, policy.encoder)

    own, unseen = tried(look)
    return replace(seen, **own), unseen


def write(recipe: Mapping[str, Any], choice: Choice, file: Path) -> None:
    """The recipe as a file with its reasons. Raises RunError where the file exists or cannot be written."""
    about = [f"# {choice.algorithm}, by `rlhf select`.   rlhf run {file}", f"# cost: {in_words(choice.cost)}"]
    values = yaml.safe_dump(_beside(recipe, file.parent), sort_keys=False, default_flow_style=None, width=1_000)
    text = "\n".join([*about, *(f"# {why}" for why in choice.reasons), values])
    write_new(file, text)


def _beside(recipe: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe with its files relative to the folder that it is written in."""

    def moved(value: Any) -> Any:
        local = isinstance(value, str) and value != SANDBOX and os.path.exists(value) and not os.path.isabs(value)
        return os.path.relpath(value, folder) if local else value

    data = {key: moved(value) if key in ("source", "test_source") else value for key, value in recipe["data"].items()}
    return {**recipe, "base": moved(recipe["base"]), "data": data}


def _selector(given: str | Mapping[str, Any]) -> Selector:
    """What decides. Raises RunError for a selector that trains to find out, whatever its options."""
    name = given if isinstance(given, str) else given.get("use")
    if name in registry().names("selector") and hasattr(registry().get("selector", str(name)), "build"):
        asked = f"{{stage: auto, selector: {{use: {name}, ...}}}}"
        raise RunError(f"selector {name!r} trains to find out, which only a run does: run a recipe of {asked}")
    found: Selector = component("selector", given)
    return found


def _trainings(algorithm: str, base: str, hours: float | None) -> list[dict[str, Any]]:
    """The algorithm's stages on this base, each with where it starts, and with its part of the hours."""
    trainer = OF_SANDBOX if base == SANDBOX else TRAINER
    return in_a_recipe(within(with_trainer(candidates([algorithm])[algorithm], trainer), hours))


def _evaluation(rows: Data) -> tuple[list[dict[str, Any]], list[str]]:
    """The stage that ends the recipe; or none, where too little is held out, and why."""
    try:
        component("stage", {"use": "evaluate"}).fits_data(rows)
    except ValueError as error:
        return [], [f"no evaluation: {error}"]
    return [{"stage": "evaluate", "prompts": 64}], []


def _endings(recipe: Mapping[str, Any]) -> list[str]:
    """When the trainings of a recipe end at the latest."""
    return [
        f"{stage['name']} ends after {stage['budget']['seconds']:,.0f} s at the latest (`budget`)"
        for stage in recipe["stages"]
        if "budget" in stage
    ]
