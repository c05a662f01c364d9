"""A toy with a feature that goes with the label but not always, in which every accuracy is known exactly."""

from __future__ import annotations

from typing import Any

import torch

from rlhf_plugins import RankedScores

CEILING = 0.8413  # Phi(1): of x1 alone


def worst_group(loss: Any, agree: float, rows: int = 2000, seed: int = 0, steps: int = 200) -> float:
    """The accuracy of a linear reward <w, x> on the worse of the groups a = y and a != y, after a training with Adam.

    x1 = y + N(0, 1), x2 = a + N(0, 1/4), P(a = y) = `agree`. A row is a pair whose gap is y <w, x>, and its topic says
    whether a = y. The accuracy is Phi((w1 + a w2) / sqrt(w1^2 + w2^2 / 4)) at y = 1.

    Args:
        loss: a reward loss of pairs.
        agree: share of rows with a = y.
        rows: the rows of the data set, all in each batch.
        seed: the seed of the rows.
        steps: the steps of the training, at a learning rate of 0.05.
    """
    draw = torch.Generator().manual_seed(seed)
    other = torch.arange(rows) >= rows * agree
    noise = torch.randn(rows, 2, generator=draw)
    x = torch.stack([1 + noise[:, 0], torch.where(other, -1.0, 1.0) + noise[:, 1] / 2], 1)
    w = torch.zeros(2, requires_grad=True)
    acts, adam = loss.acting(), torch.optim.Adam([w], lr=0.05)
    for _ in range(steps):
        scores = torch.stack([x @ w, torch.zeros(rows)], 1)
        adam.zero_grad()
        acts(RankedScores.of(scores, topic=other.long())).mean().backward()
        adam.step()
    w1, w2 = w.detach().tolist()
    margins = torch.tensor([w1 + w2, w1 - w2]) / max((w1**2 + w2**2 / 4) ** 0.5, 1e-9)
    return float(torch.distributions.Normal(0.0, 1.0).cdf(margins).min())
