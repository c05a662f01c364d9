"""Davidson 1970: Bradley-Terry scores of answers from comparisons with ties.

    P(i > j) = e^{s_i} / z,  P(tie) = nu e^{(s_i + s_j) / 2} / z,  z = e^{s_i} + e^{s_j} + nu e^{(s_i + s_j) / 2}
Scores have a normal prior around 0, so that an answer that always wins has a finite one; nu is the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

Numbers: TypeAlias = npt.NDArray[np.float64]
Compared: TypeAlias = tuple[int, int, str]  # two answers, and a (the first is better), b or tie
WORDS = {"a": 0, "b": 1, "tie": 2}


@dataclass(frozen=True)
class Scores:
    """The result."""

    scores: Numbers  # (answers,)
    nu: float  # how frequent ties are between equals: nu / (2 + nu)


def fit(compared: Sequence[Compared], answers: int, deviation: float = 3.0) -> Scores:
    """The scores under which the comparisons and the prior are most likely.

    Args:
        compared: by the numbers of answers, from 0.
        answers: how many there are.
        deviation: the deviation of the prior of a score.
    """
    if not compared:
        return Scores(np.zeros(answers), 1.0)
    first, second = (np.array([one[place] for one in compared]) for place in (0, 1))
    outcome = np.array([WORDS[one[2]] for one in compared])

    def loss(x: Numbers) -> tuple[float, Numbers]:
        half = (x[first] - x[second]) / 2
        logits = np.stack([half, -half, np.full(len(half), x[-1])])  # of a, b, tie, up to a constant
        logp = logits - np.logaddexp.reduce(logits, axis=0)
        wrong = np.exp(logp)
        wrong[outcome, np.arange(len(half))] -= 1
        slope = np.append(x[:-1] / deviation**2, x[-1] / deviation**2 + wrong[2].sum())
        push = (wrong[0] - wrong[1]) / 2
        np.add.at(slope, first, push)
        np.add.at(slope, second, -push)
        prior = (x**2).sum() / (2 * deviation**2)
        return float(prior - logp[outcome, np.arange(len(half))].sum()), slope

    found = minimize(loss, np.zeros(answers + 1), jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x
    return Scores(found[:-1] - found[:-1].mean(), float(np.exp(found[-1])))
