"""What a user's first judgements are worth: a shared basis beside a pooled model and models of the user's own.

    python plugins/rlhf-personal/bench/cold_start.py [SEEDS] [NEW_USERS]

Forty simulated users with different tastes judge pairs of the sandbox. A pooled reward model and one with the head
`personal` are trained on all of them, on the base's own features. New users then judge 0, 5, 20 or 100 pairs; accuracy
is on other pairs of each, by the user's true value. It prints a table over seeds, and what the table of users tells.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rlhf_personal.cold_start import Prior, most_likely
from rlhf_personal.head import of_nobody
from rlhf_personal.tastes import taste
from torch import Tensor

from rlhf_plugins import Base, Data, Group, component, session

USERS, SPREAD, JUDGED = 40, 1.5, (0, 5, 20, 100)
VARIANCES = (0.003, 0.03, 0.3, 3.0)  # of priors that nothing teaches
ROWS = {"format": "sandbox", "writer": "sloppy", "test_prompts": 150, "pairs": 2}
TRAINER = {"learning_rate": 2e-2, "per_device_train_batch_size": 64, "num_train_epochs": 8, "warmup_steps": 10}
MODELS: Mapping[str, Any] = {  # on the base's own features, which are computed once
    "pooled": {},
    "personal": {
        "head": {"use": "personal", "users": USERS, "rank": 8},
        "regularizers": [{"use": "near_shared", "strength": 0.01}],
    },
}
Arm = tuple[str, int]  # its name, and the judgements that it is given


def rows(users: int, first: int, prompts: int, seed: int) -> Data:
    """Pairs that users judge."""
    made = component("data_format", "tastes", rows={**ROWS, "prompts": prompts}, users=users, first=first)
    found: Data = made.load(Base("sandbox"), seed)
    return found


def differences(model: Any, groups: Sequence[Group], by_value: bool) -> Tensor:
    """The base's features of the better response less those of the worse, (pairs, width)."""
    better = [_better(group, by_value) for group in groups]
    sides = [[g.responses[b] for g, b in zip(groups, better, strict=True)]]
    sides.append([g.responses[1 - b] for g, b in zip(groups, better, strict=True)])
    prompts = [group.prompt for group in groups]
    found = [model.predict(of_nobody(model.encode(prompts, side))).features.float() for side in sides]
    return found[0] - found[1]


def _better(group: Group, by_value: bool) -> int:
    """Which of two responses the user values more, or said that they prefer."""
    assert group.gold is not None
    assert group.ranks is not None
    return int(group.gold[1] > group.gold[0]) if by_value else group.ranks.index(0)


def right(differences: Tensor, weights: Tensor) -> float:
    """The share of pairs that weights order as the user does."""
    return float(((differences * weights).sum(1) > 0).float().mean())


def of_user(models: Mapping[str, Any], data: Data) -> dict[Arm, float]:
    """The accuracy of every arm for one new user."""
    said = differences(models["pooled"], data.train, by_value=False)
    held = differences(models["pooled"], data.test, by_value=True)
    pooled, head = models["pooled"].module.head.weight.detach()[0], models["personal"].module.head
    users, basis = Prior.of_users((head.shared + head.shift).detach()), head.basis.weight.detach().T
    found = {}
    for n in JUDGED:
        found["pooled model", n] = right(held, pooled)
        found["basis with the user's w", n] = right(held @ basis, most_likely(said[:n] @ basis, users))
        for variance in VARIANCES:
            spread = variance * torch.eye(len(pooled))
            for name, mean in (("model of the user's own", torch.zeros_like(pooled)), ("pooled head + delta", pooled)):
                found[f"{name}, variance {variance:g}", n] = right(held, most_likely(said[:n], Prior(mean, spread)))
    return found


def of_table(models: Mapping[str, Any], data: Data) -> dict[str, float]:
    """Accuracy for the users of the table on their other pairs, and how much of their tastes their weights tell."""
    users, head = torch.tensor([float(g.columns["user"]) for g in data.test]), models["personal"].module.head
    held = differences(models["pooled"], data.test, by_value=True)
    tastes = np.stack([taste(user, 5, SPREAD) for user in range(USERS)])
    own = head.weights(users).detach()
    return {
        "users of the table, pooled model": right(held, models["pooled"].module.head.weight.detach()[0]),
        "users of the table, basis with their w": right(held @ head.basis.weight.detach().T, own),
        "variance of tastes that w_u tells": explained(head.shift.detach().double().numpy(), tastes),
    }


def explained(weights: Any, tastes: Any) -> float:
    """R^2 of tastes predicted from weights by ridge regression, each user by the others; mean over dimensions."""
    x = np.column_stack([np.ones(len(weights)), weights / weights.std()])
    left = np.zeros_like(tastes)
    for user in range(len(x)):
        others = np.arange(len(x)) != user
        gram = x[others].T @ x[others] + np.diag([0.0, *np.ones(x.shape[1] - 1)])
        left[user] = tastes[user] - x[user] @ np.linalg.solve(gram, x[others].T @ tastes[others])
    return float(1 - (left**2).sum() / ((tastes - tastes.mean(0)) ** 2).sum())


def of_seed(seed: int, people: int) -> tuple[dict[Arm, float], dict[str, float]]:
    """Mean accuracies over new users, and what was measured of the table."""
    with TemporaryDirectory() as folder:
        data = rows(USERS, 0, 1200, seed)
        run = session("sandbox", data, Path(folder) / "run", seed=seed, checkpoint=None)
        for name, options in MODELS.items():
            run.train({"use": "reward_model", "train_layers": 0, "trainer": TRAINER, **options}, name=name)
        models = {name: run.reward(name) for name in MODELS}
        arms = [of_user(models, rows(1, USERS + user, 60, seed + 1)) for user in range(people)]
        return {arm: fmean(each[arm] for each in arms) for arm in arms[0]}, of_table(models, data)


def main(seeds: int = 5, people: int = 30) -> None:
    """Prints means over seeds with standard errors."""
    began = time.perf_counter()
    found = [of_seed(seed, people) for seed in range(seeds)]
    names = list(dict.fromkeys(name for name, _ in found[0][0]))
    print(f"| {people} new users, judgements of each | {' | '.join(map(str, JUDGED))} |\n|---|{'---|' * len(JUDGED)}")
    for name in names:
        print(f"| {name} | {' | '.join(shown([arms[name, n] for arms, _ in found]) for n in JUDGED)} |")
    for name in found[0][1]:
        print(f"{name}: {shown([table[name] for _, table in found])}")
    print(f"{seeds} seeds, {time.perf_counter() - began:.0f} s")


def shown(values: Sequence[float]) -> str:
    """The mean and its standard error."""
    return f"{fmean(values):.3f} +- {stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else f"{values[0]:.3f}"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
