"""What a user's first judgements are worth to an adapter: from a learned start, from a pooled model, and from nothing.

    python plugins/rlhf-personal/bench/adapters.py [SEEDS] [NEW_USERS]

Twenty simulated users with different tastes judge pairs of the sandbox. A pooled reward model and one with the head
`personal` are trained on all of them, trunk and all; the stage `adapters` learns theta_meta from the pooled one. New
users then judge 0, 5, 20 or 100 pairs; accuracy is on other pairs of each, by the user's true value. Prints a table.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from cold_start import JUDGED, Arm, rows, shown
from rlhf_personal.adapting import Adaptable, Fit, Theta, added
from rlhf_personal.cold_start import Prior, most_likely
from rlhf_personal.kept import load
from rlhf_personal.reward import differences

from rlhf_plugins import Data, Group, session, strict_pairs

USERS = 20
POOLED: Mapping[str, Any] = {
    "use": "reward_model",
    "trainer": {"learning_rate": 2e-3, "per_device_train_batch_size": 32, "max_steps": 150, "warmup_steps": 10},
}
UNTRAINED: Mapping[str, Any] = {"use": "reward_model", "trainer": {"max_steps": 1, "learning_rate": 1e-9}}
BASIS: Mapping[str, Any] = {
    **POOLED,
    "head": {"use": "personal", "users": USERS, "rank": 8},
    "head_learning_rate": 2e-2,
    "regularizers": [{"use": "near_shared", "strength": 0.01}],
}
META: Mapping[str, Any] = {"use": "adapters", "model": "pooled", "rounds": 20, "users": 4, "steps": 5}
FIT, OWN = Fit(steps=10), Fit(steps=30, learning_rate=1e-2)


def by_value(data: Data) -> list[Group]:
    """The held-out pairs, the response that the user values more first."""
    found = []
    for group in data.test:
        assert group.gold is not None
        first = int(group.gold[1] > group.gold[0])
        found.append(Group(group.prompt, (group.responses[first], group.responses[1 - first]), (0, 1)))
    return found


def right(model: Adaptable, theta: Theta, pairs: list[Group]) -> float:
    """The share of pairs that weights order as the user does."""
    model.put(theta)
    return float((model.gaps(pairs) > 0).float().mean())


def of_user(starts: Mapping[str, tuple[Adaptable, Theta, Fit]], basis: Any, data: Data) -> dict[Arm, float]:
    """The accuracy of every arm for one new user."""
    judged, held, head = strict_pairs(data.train), by_value(data), basis.module.head
    users, apart = Prior.of_users((head.shared + head.shift).detach()), differences(basis, held)
    found = {}
    for n in JUDGED:
        for name, (model, start, fit) in starts.items():
            found[name, n] = right(model, added(start, model.fitted(start, judged[:n], fit)), held)
        weights = most_likely(differences(basis, judged[:n]), users)
        found["basis with the user's w", n] = float((apart @ weights > 0).float().mean())
        found["pooled model", n] = right(*starts["adapter from the pooled model"][:2], held)
    return found


def of_seed(seed: int, people: int) -> tuple[dict[Arm, float], Mapping[str, float]]:
    """Mean accuracies over new users, and those of the users whom the stage learned from."""
    with TemporaryDirectory() as folder:
        run = session("sandbox", rows(USERS, 0, 600, seed), Path(folder) / "run", seed=seed, checkpoint=None)
        for name, spec in {"untrained": UNTRAINED, "pooled": POOLED, "basis": BASIS}.items():
            run.train(spec, name=name)
        made = run.train(META, name="adapters")
        meta = load(Path(str(made.rewards["adapters"]["path"]))).meta
        pooled, own = (Adaptable(run.reward(name), 4, seed) for name in ("pooled", "untrained"))
        starts = {
            "adapter from theta_meta": (pooled, meta, FIT),
            "adapter from the pooled model": (pooled, pooled.theta, FIT),
            "model of the user's own": (own, own.theta, OWN),
        }
        each = [of_user(starts, run.reward("basis"), rows(1, USERS + user, 60, seed + 1)) for user in range(people)]
        found = {arm: fmean(one[arm] for one in each) for arm in each[0]}
        print(f"seed {seed}: {found} {made.metrics}", file=sys.stderr, flush=True)
        return found, made.metrics


def main(seeds: int = 5, people: int = 8) -> None:
    """Prints means over seeds with standard errors."""
    began = time.perf_counter()
    found = [of_seed(seed, people) for seed in range(seeds)]
    print(f"| judgements of each of {people} new users | {' | '.join(map(str, JUDGED))} |\n|---|{'---|' * len(JUDGED)}")
    for name in dict.fromkeys(name for name, _ in found[0][0]):
        print(f"| {name} | {' | '.join(shown([arms[name, n] for arms, _ in found]) for n in JUDGED)} |")
    for name in found[0][1]:
        print(f"users of the stage, {name}: {shown([numbers[name] for _, numbers in found])}")
    print(f"{seeds} seeds, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
