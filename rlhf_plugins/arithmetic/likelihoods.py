"""Log-likelihoods of judgements under models of choice: rewards in, no options, no components."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.nn.functional import logsigmoid

if TYPE_CHECKING:
    from torch import Tensor


def plackett_luce(scores: Tensor, ranks: Tensor, running: Tensor) -> Tensor:
    """log P of a ranking: sum over its responses i of r_i - log sum_{j placed no better than i} exp r_j.

    Luce 1959 and Plackett 1975. Where d responses share a place, the l-th of them (l = 0 .. d - 1) counts them all in
    its sum with the weight 1 - l / d, which is Efron's approximation (1977) of the sum over their orders.

    Args:
        scores: (groups, K) rewards.
        ranks: (groups, K), 0 the best; negative is not placed.
        running: (groups, K) True where a response is in the sums; one that is not placed is behind all others.

    Returns:
        (groups,) in nats; 0 where fewer than two responses are running.
    """
    placed = running & (ranks >= 0)
    both = placed.unsqueeze(2) & running.unsqueeze(1)  # (groups, K, K): i is placed, j is running
    behind = ranks.unsqueeze(1) - ranks.unsqueeze(2)  # by how many places j is behind i
    same = both & (behind == 0)
    later = both & ((behind > 0) | (ranks < 0).unsqueeze(1))
    left = 1 - same.tril(-1).sum(2).to(scores.dtype) / same.sum(2).clamp(min=1)  # 1 - l / d
    weight = later + same * left.unsqueeze(2)
    kept = scores.masked_fill(~running, 0.0)
    gaps = kept.unsqueeze(1) - kept.unsqueeze(2)  # r_j - r_i
    logs = weight.log().masked_fill(~placed.unsqueeze(2), 0.0)  # a row of -inf alone has no gradient
    return -(gaps + logs).logsumexp(2).masked_fill(~placed, 0.0).sum(1)


def cross_entropy(gap: Tensor, probability: Tensor) -> Tensor:
    """-p log s(d) - (1 - p) log s(-d), s the logistic function: Bradley-Terry with soft labels, least at s(d) = p.

    Args:
        gap: (pairs,) d, the better response's reward minus the other's.
        probability: (pairs,) p, how likely the better response is better; at 1 it is -log s(d).
    """
    return -probability * logsigmoid(gap) - (1 - probability) * logsigmoid(-gap)


def rao_kupper(gap: Tensor, tied: Tensor, threshold: float) -> Tensor:
    """log P of pairs with ties: P(win) = s(d - t), P(tie) = (e^2t - 1) s(d - t) s(-d - t), s the logistic function.

    Rao and Kupper 1967, with theta = e^t.

    Args:
        gap: (pairs,) d, the winner's reward minus the loser's.
        tied: (pairs,) bool.
        threshold: t >= 0; 0 only where no pair is tied, since a tie then has no probability.
    """
    win, lose = logsigmoid(gap - threshold), logsigmoid(-gap - threshold)
    log_factor = 2 * threshold + math.log(-math.expm1(-2 * threshold)) if threshold else 0.0  # e^2t may overflow
    return log_factor * tied + win + lose * tied


def davidson(gap: Tensor, tied: Tensor, nu: float) -> Tensor:
    """log P of pairs with ties: P(win) : P(loss) : P(tie) = e^(d/2) : e^(-d/2) : nu.

    Davidson 1970. With q = sqrt(s(d) s(-d)) <= 1/2, s the logistic function,
    P(win) = s(d) / (1 + nu q) and P(tie) = nu q / (1 + nu q), which no d overflows.

    Args:
        gap: (pairs,) d, the winner's reward minus the loser's.
        tied: (pairs,) bool.
        nu: >= 0; 0 only where no pair is tied, since a tie then has no probability.
    """
    win = logsigmoid(gap)
    log_q = (win + logsigmoid(-gap)) / 2
    tie = log_q + (math.log(nu) if nu else 0.0)
    return tie.where(tied, win) - (nu * log_q.exp()).log1p()
