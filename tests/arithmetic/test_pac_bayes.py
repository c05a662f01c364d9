"""PAC-Bayes bounds: the inverse of the binary KL by hand, and a bound that holds as often as it says."""

from __future__ import annotations

from math import exp, log
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_plugins.arithmetic.pac_bayes import certify, kl_inverse, pac_bayes_kl


def test_the_inverse_by_hand() -> None:
    assert kl_inverse(0.1, 0.1) == pytest.approx(0.282379, abs=5e-7)
    assert kl_inverse(0.0, 0.1) == pytest.approx(1 - exp(-0.1))  # -log(1 - p) = c
    assert (kl_inverse(1.0, 0.1), kl_inverse(0.3, 0.0)) == (1.0, 0.3)


def test_the_bound_by_hand() -> None:
    """(10 + log(2 sqrt(1000) / 0.05)) / 1000 = 0.0171427 nats."""
    assert pac_bayes_kl(0.1, 10, 1000, 0.05) == pytest.approx(0.164476, abs=5e-7)


@given(st.floats(0, 0.99), st.floats(1e-6, 3))
def test_the_inverse_is_where_the_kl_is_reached(q: float, c: float) -> None:
    p = kl_inverse(q, c)
    assert q <= p <= 1
    if p < 1 - 1e-9:
        kl = (q * log(q / p) if q else 0.0) + (1 - q) * log((1 - q) / (1 - p))
        assert kl == pytest.approx(c, rel=1e-4, abs=1e-7)


@pytest.mark.slow
def test_the_bound_holds_in_1000_draws_as_often_as_it_says() -> None:
    """x ~ N(0, I), P(y = sign(x_1)) = 0.9: a score <u, x> is wrong at the angle of u and x_1, over pi, and by noise."""
    rng, held, truth, prior = np.random.default_rng(0), 0, np.array([1.0, 0.0]), np.array([1.0, 0.8])
    noise = rng.normal(size=(400, 2))
    for _ in range(1000):
        x = rng.normal(size=(60, 2))
        features = x * (np.sign(x @ truth) * np.where(rng.random(60) < 0.1, -1, 1))[:, None]
        found = certify(features @ prior, features, 0.05, (0.1, 0.5, 2.0))
        drawn = prior + found.mean + found.sigma * noise
        angle = np.arccos(drawn[:, 0] / np.linalg.norm(drawn, axis=1)) / np.pi
        held += (0.1 + 0.8 * angle).mean() <= found.bound
    assert held / 1000 >= 0.95


def learnable() -> tuple[Any, Any]:
    """A score that is right at random, and features that know the order, but for three rows without any."""
    rng = np.random.default_rng(0)
    gap, features = rng.normal(size=400), rng.normal(1.0, 1.0, size=(400, 3))
    features[:3], gap[:3] = 0.0, (0.5, 0.5, 0.0)
    return gap, features


def test_the_bound_is_of_the_posteriors_risk_and_kl() -> None:
    gap, features = learnable()
    found = certify(gap, features, 0.05, (0.5, 2.0))
    margin, deviation = gap + features @ found.mean, found.sigma * np.linalg.norm(features, axis=1)
    noisy = [NormalDist().cdf(-m / d) for m, d in zip(margin[3:], deviation[3:], strict=True)]
    assert found.risk == pytest.approx((0 + 0 + 1 + sum(noisy)) / 400)  # a tie without noise is an error
    assert found.kl == pytest.approx(found.mean @ found.mean / (2 * found.sigma**2))
    assert found.bound == pytest.approx(pac_bayes_kl(found.risk, found.kl, 400, 0.05 / 2))


def test_the_posterior_is_where_the_logistic_loss_plus_kl_is_least() -> None:
    gap, features = learnable()
    found = certify(gap, features, 0.05, (0.5,))
    wrong = 1 / (1 + np.exp(gap + features @ found.mean))
    assert found.mean / (0.5**2 * 400) == pytest.approx(features.T @ wrong / 400, abs=1e-9)


def test_a_posterior_that_learns_has_the_better_bound() -> None:
    """The score is right at random, the features know the order: only a mean away from 0 is certified."""
    rng = np.random.default_rng(0)
    gap, features = rng.normal(size=400), rng.normal(1.0, 1.0, size=(400, 3))
    found = certify(gap, features, 0.05)
    assert found.kl > 1
    assert found.bound < 0.35
    assert certify(gap, features * 0, 0.05).bound > 0.5
