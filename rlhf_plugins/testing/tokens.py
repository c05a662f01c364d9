"""What components of sampled tokens are tried with: log-ratios and advantages, small, mixed and the same every time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FAR = 20.0  # a log-ratio, in nats, that a policy in trouble may have; its exponential still fits float32


@dataclass(frozen=True)
class Tokens:
    """What a policy loss is given."""

    log_ratio: Tensor  # (B, T)
    advantages: Tensor  # (B, T)
    mask: Tensor  # (B, T) True at the response's tokens


@dataclass(frozen=True)
class Ratios:
    """What an estimator of the KL is given."""

    log_ratio: Tensor  # (B, T)


def _normal(seed: int) -> Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))


def tokens(_: object = None) -> list[tuple[str, Tokens]]:
    """Ratios around 1 and far from it, with advantages of both signs, of responses of 5, 3, 1 and 4 tokens."""
    near, far = 0.1 * _normal(0), 2 * _normal(1)
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4]).unsqueeze(1)
    return [
        ("four responses that have hardly moved", Tokens(near, _normal(2), mask)),
        ("four responses that have moved far", Tokens(far, _normal(3), mask)),
    ]


def token_extremes(_: object = None) -> list[tuple[str, Tokens]]:
    """Ratios of 1, and ratios and advantages of a policy in trouble."""
    zero, signs = torch.zeros(4, 5), _normal(4).sign()
    whole = torch.ones(4, 5, dtype=torch.bool)
    return [
        ("ratios of 1", Tokens(zero, _normal(2), whole)),
        ("advantages of 0", Tokens(_normal(1), zero, whole)),
        (f"log-ratios of {FAR} and -{FAR}", Tokens(FAR * signs, 1e4 * _normal(5), whole)),
        ("a batch of one", Tokens(_normal(1)[:1], _normal(2)[:1], whole[:1])),
    ]


def ratios(_: object = None) -> list[tuple[str, Ratios]]:
    """Tokens near the reference and far from it."""
    return [("twenty tokens of a policy near its reference", Ratios(0.3 * _normal(0)))]


def ratio_extremes(_: object = None) -> list[tuple[str, Ratios]]:
    """The reference itself, and a policy in trouble."""
    return [
        ("the reference's own tokens", Ratios(torch.zeros(4, 5))),
        (f"log-ratios of {FAR} and -{FAR}", Ratios(FAR * _normal(4).sign())),
    ]
