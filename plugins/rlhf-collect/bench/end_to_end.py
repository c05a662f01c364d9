"""Does it help to trust labels by how people agreed?   python bench/end_to_end.py [SEEDS] [ITEMS] [STEPS]

In the sandbox, where the true reward is known, 20 simulated annotators judge pairs at the desk, 30% of them at random.
One release is made by majority and one by Dawid and Skene. Reward models are trained on each, with and without the
weights, and measured by how often they order two held-out answers as the true reward does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any

from crowd import crowded
from rlhf_collect import release as releases
from rlhf_collect.settings import Settings
from rlhf_collect.simulate import Worth, sandbox_rows
from rlhf_collect.store.rows import Asked

from rlhf_plugins import session

VOTES, HELD_OUT = 5, 300
ARMS: dict[str, tuple[int, Any]] = {  # name: number of the release, loss
    "majority": (1, "bradley_terry"),
    "majority, weighted": (1, {"use": "weighted", "loss": "bradley_terry"}),
    "Dawid-Skene": (2, "bradley_terry"),
    "Dawid-Skene, weighted": (2, {"use": "weighted", "loss": "bradley_terry"}),
}


def collect(folder: Path, rows: list[Asked], worth: Worth, seed: int) -> None:
    """A study in which everybody worked until all was judged, with two releases. Nobody is paused: there is no gold."""
    with crowded(folder, Settings(votes=VOTES, most_votes=VOTES, seed=seed), rows, worth) as (study, desk, people):
        while sum(one.work(desk, 10) for one in people):
            pass
        for aggregate in ("majority", "dawid_skene"):
            releases.make(study, releases.Parameters(aggregate, test_fraction=0.05))


def accuracy(reward: Any, rows: list[Asked], worth: Worth) -> float:
    """How often the reward orders the two answers of a row as the true one does."""
    sides = []
    for place in (0, 1):
        texts = [row.answers[place].text for row in rows]
        sides.append(reward.predict(reward.encode([row.prompt for row in rows], texts)).reward.tolist())
    right = [
        (first > second) == (worth(row.prompt, row.answers[0].text) > worth(row.prompt, row.answers[1].text))
        for row, first, second in zip(rows, *sides, strict=True)
    ]
    return fmean(right)


def main(seeds: int = 5, items: int = 600, steps: int = 60) -> None:
    """Prints the accuracy of each arm, and the difference from the first with its standard error."""
    found: dict[str, list[float]] = {name: [] for name in ARMS}
    for seed in range(seeds):
        rows, worth = sandbox_rows(items + HELD_OUT, gold=0, training=0, seed=seed)
        Random(seed).shuffle(rows)
        with TemporaryDirectory() as folder:
            collect(Path(folder) / "study", rows[HELD_OUT:], worth, seed)
            for name, (number, loss) in ARMS.items():
                data = {"format": "collected", "source": f"{folder}/study", "release": number}
                run = session("sandbox", data, f"{folder}/{number}-{name.replace(' ', '')}", seed=seed)
                trainer = {"max_steps": steps, "per_device_train_batch_size": 16, "learning_rate": 3e-4}
                run.train({"use": "reward_model", "loss": loss, "trainer": trainer}, name="rm")
                found[name].append(accuracy(run.reward("rm"), rows[:HELD_OUT], worth))
        print(f"seed {seed}:", ", ".join(f"{name} {values[-1]:.3f}" for name, values in found.items()), flush=True)
    base = found["majority"]
    for name, values in found.items():
        gaps = [value - other for value, other in zip(values, base, strict=True)]
        error = stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
        print(f"{name}: {fmean(values):.3f}, {fmean(gaps):+.3f} +- {error:.3f} against majority")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
