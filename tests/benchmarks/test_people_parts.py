"""The intervals of `benchmarks/people_parts.py`, by hand."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return import_module("paired_units")


def test_an_interval_resamples_whole_topics(units: Any) -> None:
    """Two topics of means 0 and 1: both, or one of them twice, so that the bootstrap gives 0, 1/2 and 1."""
    found = units.over_units(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1]))
    assert found == (0.5, 0.0, 1.0)
    assert not found.clear


def test_a_topic_counts_by_its_pairs(units: Any) -> None:
    """Three pairs at 0 and one at 1: the mean is 1/4, and one topic drawn twice is 0 or 1."""
    assert units.over_units(np.array([0.0, 0.0, 0.0, 1.0]), np.array([0, 0, 0, 1])) == (0.25, 0.0, 1.0)


def test_a_difference_that_all_topics_share_is_certain(units: Any) -> None:
    """One model is right on all four pairs, the other on one of each topic's two: 1/2 more, whatever is drawn."""
    difference = units.right(np.array([[1.0, 2.0, 0.5, 1.0]])) - units.right(np.array([[-1.0, 2.0, -0.5, 1.0]]))
    found = units.over_units(difference, np.array([0, 0, 1, 1]))
    assert found == (0.5, 0.5, 0.5)
    assert found.clear


def test_seeds_are_averaged_and_a_tie_is_half_right(units: Any) -> None:
    assert units.right(np.array([[1.0, 0.0], [-1.0, 2.0]])).tolist() == [0.5, 0.75]
