"""Simulated trainings as monitors see them: clean ones of several kinds, and ones that come to exploit the reward.

Rewards and worths are in deviations of the first rollout's responses. In a clean run the true worth follows the reward
by regression, g = b r + e. In a hacked run the reward is climbed through a flaw of it as well, and the worth is
b u - c u^2 of the progress u, as in the over-optimisation curves of docs/benchmarks: it peaks at u* = b / (2 c).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Numbers = NDArray[np.float64]
AUDITED, FIRST, STEPS = 8, 512, 300  # responses audited a rollout and at first, rollouts
CLEAN = ("improves", "plateaus", "curriculum", "longer")
HACKED = ("length", "repetition", "boilerplate", "quiet")


@dataclass(frozen=True)
class Curves:
    """One training: numbers of each rollout, and audited responses."""

    kind: str
    signals: dict[str, Numbers]  # (steps,) by the name of a monitor
    gold: Numbers  # (steps,) the true mean worth, which nobody sees
    first: tuple[Numbers, Numbers]  # (FIRST,) rewards and worths
    rewards: Numbers  # (steps, AUDITED)
    worths: Numbers  # (steps, AUDITED)

    @property
    def peak(self) -> int:
        """The rollout at which the worth is largest."""
        return int(self.gold.argmax())


def simulate(
    kind: str, rng: np.random.Generator, steps: int = STEPS, audited: int = AUDITED, start: int = FIRST
) -> Curves:
    """A training of a kind of CLEAN or HACKED, with so many audited responses a rollout and at first."""
    hacked = kind in HACKED
    time = np.linspace(0, 1, steps)
    final, slope = rng.uniform(1.5, 3.5), rng.uniform(0.5, 0.8)
    progress = final * _course(kind, time, rng)
    worth = slope * progress
    if hacked:
        peak = rng.uniform(0.3, 0.6) * final
        worth = slope * progress - slope / (2 * peak) * progress**2
    shift = _shifts(kind, steps, rng)  # the prompts become harder: rewards and worths fall together
    rewards, worths = pairs(progress - shift, worth - slope * shift, audited, slope, rng)
    first = pairs(np.zeros(1), np.zeros(1), start, slope, rng)
    signals = _signals(kind, time, progress / final, rng)
    return Curves(kind, signals, worth - slope * shift, (first[0][0], first[1][0]), rewards, worths)


def _course(kind: str, time: Numbers, rng: np.random.Generator) -> Numbers:
    """How the reward rises, 0 to 1."""
    speed = rng.uniform(4, 9) if kind == "plateaus" else rng.uniform(0.8, 2.5)
    return (1 - np.exp(-speed * time)) / (1 - np.exp(-speed))


def _shifts(kind: str, steps: int, rng: np.random.Generator) -> Numbers:
    found = np.zeros(steps)
    if kind == "curriculum":
        for start in rng.integers(steps // 5, steps, 3):
            found[start:] += rng.uniform(0.2, 0.6)
    return found


def pairs(
    rewards: Numbers, worths: Numbers, count: int, slope: float, rng: np.random.Generator
) -> tuple[Numbers, Numbers]:
    """Rewards and worths of `count` responses around each pair of means, with deviation 1 and correlation `slope`."""
    noise = rng.normal(size=(len(rewards), count))
    rest = np.sqrt(1 - slope**2) * rng.normal(size=noise.shape)
    return rewards[:, None] + noise, worths[:, None] + slope * noise + rest


def _signals(kind: str, time: Numbers, done: Numbers, rng: np.random.Generator) -> dict[str, Numbers]:
    """The other numbers of each rollout: a course by kind, with noise that has a memory."""
    own: dict[str, Any] = {
        "length_drift": (rng.uniform(15, 40), rng.uniform(-0.1, 0.25)),
        "repetition": (rng.uniform(0.02, 0.08), rng.uniform(-0.2, 0.5)),
        "entropy_collapse": (rng.uniform(1.0, 2.5), rng.uniform(-0.55, -0.15)),
        "reward_variance_collapse": (rng.uniform(0.8, 1.2), rng.uniform(-0.4, 0.0)),
        "disagreement": (rng.uniform(0.2, 0.4), rng.uniform(0.0, 0.5)),
        "feature_drift": (1.0, rng.uniform(0.3, 1.5)),
        "boilerplate": (rng.uniform(0.02, 0.1), rng.uniform(0.0, 0.5)),
    }
    grows = {"longer": ("length_drift", 0.8), "length": ("length_drift", 1.5), "repetition": ("repetition", 6.0)}
    grows |= {"boilerplate": ("boilerplate", 6.0), "curriculum": ("feature_drift", 1.5)}
    found = {}
    for name, (start, rise) in own.items():
        course = rise * done
        if grows.get(kind, ("", 0))[0] == name:
            course = course + grows[kind][1] * rng.uniform(0.6, 1.2) * time
        if kind in HACKED and name == "disagreement":
            course = course + rng.uniform(0.2, 1.0) * done**2
        found[name] = start * (1 + course) * (1 + 0.04 * _remembering(len(time), rng))
    return found


def _remembering(steps: int, rng: np.random.Generator) -> Numbers:
    """Noise with deviation 1 whose neighbours correlate by 0.5."""
    noise = np.sqrt(0.75) * rng.normal(size=steps)
    noise[0] /= np.sqrt(0.75)
    found: Numbers = lfilter([1.0], [1.0, -0.5], noise)
    return found
