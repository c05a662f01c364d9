"""Labels saved by asking where the model is unsure.   python bench/arms.py [SEEDS] [LABELS]

Pairs of the sandbox, labelled by a simulated annotator, one vote each. A Bradley-Terry model that is linear in the
words of an answer, and in pairs of a word of the prompt and one of the answer, learns from the labels so far; every 25
labels the open items are put in order again. The other arm asks at random. Accuracy is by the true reward, on pairs
that were held out.
"""

from __future__ import annotations

import sys
from random import Random
from statistics import fmean, stdev
from typing import TypeAlias
from zlib import crc32

import numpy as np
import numpy.typing as npt
from rlhf_collect.acquire import Open, arranged
from rlhf_collect.simulate import Habits, sandbox_rows
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression

Numbers: TypeAlias = npt.NDArray[np.float64]
WIDTH, RIDGE, BATCH = 2048, 1.0, 25


def features(prompt: str, answer: str) -> Numbers:
    """(WIDTH,) hashed counts."""
    found = np.zeros(WIDTH)
    for word in answer.split():
        found[crc32(word.encode()) % WIDTH] += 1
        for other in prompt.split():
            found[crc32(f"{other} {word}".encode()) % WIDTH] += 0.3
    return found


def learn(x: Numbers, y: Numbers) -> Numbers:
    """(WIDTH,) the most likely weights, with a ridge."""

    def loss(weights: Numbers) -> tuple[float, Numbers]:
        logits = x @ weights
        slope = 1 / (1 + np.exp(-logits)) - y
        value = np.logaddexp(0, logits).sum() - y @ logits + RIDGE / 2 * weights @ weights
        return float(value), x.T @ slope + RIDGE * weights

    found: Numbers = minimize(loss, np.zeros(WIDTH), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    return found


def curve(
    data: tuple[Numbers, Numbers, Numbers], items: list[Open], labels: int, active: bool, seed: int
) -> list[float]:
    """The accuracy after each batch of labels."""
    x, votes, worth = data
    random, open_items = Random(seed), {one.id: one for one in items}
    asked = random.sample(sorted(open_items), BATCH)
    found = []
    while True:
        for item in asked[len(found) * BATCH :]:
            open_items.pop(item, None)
        weights = learn(x[asked], votes[asked])
        held = x[len(items) :] @ weights
        found.append(float(np.mean((held > 0) == (worth[len(items) :] > 0))))
        if len(asked) >= labels:
            return found
        left = list(open_items.values())
        doubt = [-abs(float(x[one.id] @ weights)) for one in left]
        order = arranged(left, doubt, 0.2 if active else 0.999, random)
        asked += [item for item, _ in order[:BATCH]]


def saved(active: list[float], at_random: list[float]) -> float:
    """The share of labels that the active arm did not need to be as good as the random one at its end; below 0: worse.

    Both curves are fitted by ones that never fall (isotonic regression).
    """
    steps = np.arange(1, len(active) + 1)
    ours, theirs = (IsotonicRegression().fit_transform(steps, values) for values in (active, at_random))
    if ours[-1] < theirs[-1]:  # how many labels sooner the random arm was where the active one ends
        return float(np.interp(ours[-1], theirs, steps)) / len(steps) - 1
    return 1 - float(np.interp(theirs[-1], ours, steps)) / len(steps)


def main(seeds: int = 5, labels: int = 400) -> None:
    """Prints the mean of both curves and the labels saved, with standard errors."""
    shares, gaps = [], []
    for seed in range(seeds):
        pool, worth = sandbox_rows(1000, gold=0, training=0, seed=seed)
        held, _ = sandbox_rows(1000, gold=0, training=0, seed=seed + 100)  # other answers
        rows = [*pool, *held]
        x = np.stack([np.subtract(*(features(row.prompt, one.text) for one in row.answers)) for row in rows])
        true = [[worth(row.prompt, one.text) for one in row.answers] for row in rows]
        judge, random = Habits(3.0, 0.0), Random(seed)
        votes = np.array([float(judge.choice(a, b, random) > 0) for a, b in true])
        data = x, votes, np.array([a - b for a, b in true])
        items = [Open(n, row.prompt, row.prompt, ("", "")) for n, row in enumerate(pool)]
        active, at_random = (curve(data, items, labels, way, seed) for way in (True, False))
        shares.append(saved(active, at_random))
        gaps.append(fmean(active) - fmean(at_random))
        print(f"seed {seed}: mean accuracy, active {fmean(active):.3f}, at random {fmean(at_random):.3f}; "
              f"labels saved {shares[-1]:.0%}", flush=True)  # fmt: skip
    print(f"labels saved: {_with_error(shares)}; accuracy gained: {_with_error(gaps)}")


def _with_error(values: list[float]) -> str:
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{fmean(values):.3f} +- {error:.3f}"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
