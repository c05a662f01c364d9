"""A new user's weights from a few judgements: Bradley-Terry with a normal prior. Arithmetic, no model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

STEPS, SMALL = 100, 1e-10


@dataclass(frozen=True)
class Prior:
    """What is known of a user before they judge: w ~ N(mean, covariance)."""

    mean: Tensor  # (K,)
    covariance: Tensor  # (K, K), positive definite

    @classmethod
    def of_users(cls, weights: Tensor, least: float = 1e-3) -> Prior:
        """From the weights of U users, (U, K): their mean and covariance, and `least` on the diagonal.

        An empirical Bayes estimate of the prior that hierarchical meta-learning has (Grant et al. 2018, section 3).
        """
        apart = weights - weights.mean(0)
        spread = apart.T @ apart / max(1, len(weights) - 1)
        return cls(weights.mean(0), spread + least * torch.eye(weights.shape[1]).to(spread))


def most_likely(differences: Tensor, prior: Prior, likely: Tensor | None = None) -> Tensor:
    """The w (K,) with the largest posterior under Bradley-Terry, by Newton's method.

    It maximises sum_i p_i log sigmoid(w . d_i) + (1 - p_i) log sigmoid(-w . d_i) - 1/2 (w - m)' S^-1 (w - m), which is
    strictly concave; a step is halved until it does not fall.

    Args:
        differences: (n, K), phi of the better response less phi of the worse; n may be 0, which gives the mean.
        prior: m and S.
        likely: (n,) p, soft labels; all are 1 if left out.
    """
    d, mean = differences.double(), prior.mean.double()
    sure = d.new_ones(len(d)) if likely is None else likely.to(d)
    precision = torch.linalg.inv(prior.covariance.double())

    def height(w: Tensor) -> Tensor:
        fit = sure * logsigmoid(d @ w) + (1 - sure) * logsigmoid(-(d @ w))
        return fit.sum() - (w - mean) @ precision @ (w - mean) / 2

    w = mean.clone()
    for _ in range(STEPS):
        p = torch.sigmoid(d @ w)  # (n,)
        slope = d.T @ (sure - p) - precision @ (w - mean)
        step = torch.linalg.solve((d.T * (p * (1 - p))) @ d + precision, slope)
        while height(w + step) < height(w) and step.norm() > SMALL:
            step = step / 2
        w = w + step
        if step.norm() < SMALL * (1 + w.norm()):
            break
    return w.to(differences)
