"""Several objectives in the sandbox: the front of helpfulness and brevity, and what votes of users choose.

    python plugins/rlhf-objectives/bench/front.py front [SEEDS] [STEPS]
    python plugins/rlhf-objectives/bench/front.py conditioned [SEEDS] [STEPS]
    python plugins/rlhf-objectives/bench/front.py votes [SEEDS]

`front` and `conditioned` run a shipped recipe for each seed and print every policy's objectives, with the size of the
front and what each stage alone dominates; the last seed's picture is left in `front.svg`. `votes` trains nothing: 25
simulated users with different tastes value 8 responses to a prompt, and each aggregation chooses one; then five of the
users report twenty times their values.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from shutil import copy
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml

from rlhf_plugins import Base, Data, MemberScores, component, open_run, run_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
USERS, LOUD, FACTOR = 25, 5, 20.0
CHOICES = ("mean", "worst_case", "vote", "majority", "maximin")


def swept(name: str, seed: int, steps: int, folder: Path) -> dict[str, Sequence[float]]:
    """The means of every policy, and the size of the front."""
    words = yaml.safe_load((RECIPES / f"{name}_sandbox.yaml").read_text()) | {"seed": seed, "output_dir": str(folder)}
    for stage in words["stages"]:
        stage.get("online", stage)["trainer"]["max_steps"] = steps
    run_recipe(words, say=lambda _: None)
    results = [result for result in open_run(folder).finished if "means" in result.metrics]
    found = results[-1].metrics
    copy(sorted(folder.rglob("front.svg"))[-1], "front.svg")
    own = {f"volume of {result.name} alone": [result.metrics["own_hypervolume"]] for result in results}
    return {**found["means"], "size of the front": [found["hypervolume"], float(len(found["front"]))], **own}


def front(name: str, seeds: int = 5, steps: int = 60) -> None:
    """Prints means over seeds with standard errors."""
    found = []
    for seed in range(seeds):
        with TemporaryDirectory() as folder:
            found.append(swept(name, seed, steps, Path(folder) / "run"))
            print(f"seed {seed}: {found[-1]}", file=sys.stderr)
    print("| policy | helpful | brief |\n|---|---|---|")
    for name in found[0]:
        columns = zip(*[each[name] for each in found], strict=True)
        print(f"| {name} | {' | '.join(shown(column) for column in columns)} |")


def values(seed: int) -> Iterable[torch.Tensor]:
    """(users, 8): how each user values the responses to a prompt, in deviations of their own values of it."""
    rows = component("data_format", "sandbox", writer="sloppy", prompts=200, test_prompts=1, responses=8, pairs=None)
    data: Data = rows.load(Base("sandbox"), seed)
    tastes = np.array([1, 1, 1, 1, 0]) + 1.5 * np.random.default_rng(seed).normal(size=(USERS, 5))
    assert data.gold is not None
    for group in data.train:
        texts = [str(response) for response in group.responses]
        gold = [data.gold(str(group.prompt), text) for text in texts]
        worth = np.array([[*list(g.values())[:4], len(t.split()) / 10] for g, t in zip(gold, texts, strict=True)])
        found = tastes @ worth.T
        yield torch.tensor((found - found.mean(1, keepdims=True)) / (found.std(1, keepdims=True) + 1e-9))


def chosen(name: str, users: torch.Tensor) -> int:
    """The response that an aggregation puts first."""
    members = MemberScores(users, torch.ones(len(users)), torch.zeros(users.shape[1], dtype=torch.long))
    return int(component("aggregation", name)(members).argmax())


def of_seed(seed: int) -> Mapping[str, list[float]]:
    """By aggregation: mean value, that of the worst-off user, and the mean of the others where some are loud."""
    found: dict[str, list[list[float]]] = {name: [] for name in CHOICES}
    for users in values(seed):
        loud = users.clone()
        loud[:LOUD] *= FACTOR
        for name in CHOICES:
            own, shouted = users[:, chosen(name, users)], users[:, chosen(name, loud)]
            found[name].append([own.mean().item(), own.min().item(), shouted[LOUD:].mean().item()])
    return {name: np.mean(rows, axis=0).tolist() for name, rows in found.items()}


def votes(seeds: int = 5) -> None:
    """Prints means over seeds with standard errors."""
    found = [of_seed(seed) for seed in range(seeds)]
    print("| aggregation | mean value | of the worst-off user | of the quiet users, five loud |\n|---|---|---|---|")
    for name in CHOICES:
        print(f"| {name} | {' | '.join(map(shown, zip(*[each[name] for each in found], strict=True)))} |")


def shown(numbers: Any) -> str:
    """The mean and its standard error."""
    many = list(numbers)
    return f"{fmean(many):.3f} +- {stdev(many) / len(many) ** 0.5:.3f}" if len(many) > 1 else f"{many[0]:.3f}"


if __name__ == "__main__":
    began = time.perf_counter()
    numbers = [int(each) for each in sys.argv[2:]]
    {"front": partial(front, "pareto"), "conditioned": partial(front, "conditioned"), "votes": votes}[sys.argv[1]](
        *numbers
    )
    print(f"{time.perf_counter() - began:.0f} s")
