"""`seeds` and `sweep` of a recipe: the members that they mean, each as overrides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import yaml

from rlhf_plugins.recipe.source import Keys, Source

SEEDS, SWEEP = "seeds", "sweep"
MOST = 1000
SCHEMA = {
    SEEDS: {
        "type": "array",
        "items": {"type": "integer", "minimum": 0},
        "minItems": 1,
        "uniqueItems": True,
        "description": "train once with each, and report means with intervals over them",
    },
    SWEEP: {
        "type": "object",
        "additionalProperties": {"type": "array", "minItems": 1},
        "description": "options, such as stages.dpo.loss.beta, with the values to try; every combination is trained",
    },
}


class Written(str):
    """An override that a recipe's `sweep` wrote, so that its paths are relative to the recipe."""


@dataclass(frozen=True)
class Member:
    """One training of a recipe with `seeds` or `sweep`."""

    setting: Mapping[str, Any] = field(default_factory=dict)  # its values of the sweep, by path
    seed: int | None = None
    label: str = ""  # name of its folder
    typed: frozenset[str] = frozenset()  # the paths that the command line swept

    @property
    def overrides(self) -> list[str]:
        """Its values as overrides of the command line, without `seeds` and `sweep`."""
        seed = [] if self.seed is None else [f"seed={self.seed}"]
        swept = ((path, f"{path}={_written(value)}") for path, value in self.setting.items())
        return [*(text if path in self.typed else Written(text) for path, text in swept), *seed]

    @property
    def group(self) -> str:
        """What its seeds have in common, in words; empty without a sweep."""
        return ", ".join(f"{name} {value}" for name, value in _short(self.setting).items())


def is_several(source: Source) -> bool:
    """Whether the values ask for several members."""
    return any(source.values.get(name) not in (None, [], {}) for name in (SEEDS, SWEEP))


def taken_out(source: Source) -> Source:
    """The values without `seeds` and `sweep`."""
    return Source({name: v for name, v in source.values.items() if name not in (SEEDS, SWEEP)}, source.places)


def faults(source: Source) -> list[tuple[Keys, str]]:
    """What is wrong with the two."""
    return [*_of_seeds(source.values), *_of_sweep(source.values.get(SWEEP) or {})]


def members(source: Source) -> list[Member]:
    """Every combination of the sweep with every seed, the seeds of one together; of values without fault."""
    sweep, seeds = source.values.get(SWEEP) or {}, source.values.get(SEEDS) or [None]
    settings = [dict(zip(sweep, values, strict=True)) for values in product(*sweep.values())]
    found = [(setting, seed) for setting in settings for seed in seeds]
    labels = [_label(setting, seed) for setting, seed in found]
    if len(set(labels)) < len(labels):  # values that look alike in a file's name
        labels = [f"{place:03d}-{label}" for place, label in enumerate(labels)]
    typed = frozenset(path for path in sweep if source.place((SWEEP, path)).typed)
    return [Member(setting, seed, label, typed) for (setting, seed), label in zip(found, labels, strict=True)]


def _of_seeds(values: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    seeds = values.get(SEEDS)
    if seeds is None:
        return
    if not isinstance(seeds, list) or not all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds):
        yield (SEEDS,), "should be a list of whole numbers from 0, such as [0, 1, 2]"
    elif len(set(seeds)) < len(seeds):
        yield (SEEDS,), "names a seed twice"
    elif seeds and "seed" in values:
        yield (SEEDS,), "cannot go with `seed`: leave one of them out"


def _of_sweep(sweep: Any) -> Iterator[tuple[Keys, str]]:
    if not isinstance(sweep, Mapping):
        yield (SWEEP,), "should be a mapping of options to lists, such as {stages.dpo.loss.beta: [0.05, 0.1]}"
        return
    count = 1
    for path, tried in sweep.items():
        if not isinstance(tried, list) or not tried:
            yield (SWEEP, path), "should be a list of the values to try"
            return
        count *= len(tried)
        if path.partition(".")[0] in (SEEDS, SWEEP, "seed", "output_dir"):
            yield (SWEEP, path), "cannot be swept; seeds are listed in `seeds`"
    if count > MOST:
        yield (SWEEP,), f"means {count:,} trainings, more than {MOST:,}"


def _label(setting: Mapping[str, Any], seed: int | None) -> str:
    parts = [f"{name}-{value}" for name, value in _short(setting).items()]
    words = "_".join([*parts, *([] if seed is None else [f"seed-{seed}"])])
    return re.sub(r"[^\w.=-]+", "-", words).strip(".-")[:120]


def _short(setting: Mapping[str, Any]) -> dict[str, Any]:
    """The setting by the fewest last words of each path that tell all apart."""
    for words in range(1, 9):
        names = [".".join(path.split(".")[-words:]) for path in setting]
        if len(set(names)) == len(names):
            return dict(zip(names, setting.values(), strict=True))
    return dict(setting)


def _written(value: Any) -> str:
    return (
        str(yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True))
        .removesuffix("...\n")
        .strip()
    )
