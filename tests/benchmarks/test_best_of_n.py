"""The best of n of a sample: the mean over all choices of n."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return import_module("best_of_n")


def test_the_best_of_two_of_three_is_the_mean_over_their_three_choices(script: Any) -> None:
    """Proxies 1, 3, 2: {1, 3} and {3, 2} choose the second, {1, 2} the third, so that gold is (20 + 20 + 5) / 3."""
    proxy, gold = np.array([[1.0, 3.0, 2.0]]), np.array([[7.0, 20.0, 5.0]])
    assert script.best(proxy, gold, 2) == pytest.approx(15.0)
    assert script.best(proxy, gold, 1) == pytest.approx(32 / 3)
    assert script.best(proxy, gold, 3) == pytest.approx(20.0)


def test_gaos_form_is_fitted_and_its_kl_begins_at_0(script: Any) -> None:
    assert (script.COUNTS[0], script.KL[0]) == (1, 0.0)
    d = np.sqrt(script.KL)
    assert script.fitted(d * (0.5 - 0.1 * d)) == pytest.approx((0.5, 0.1, 1.0))


def test_the_plot_is_of_the_numbers_of_the_page(script: Any, tmp_path: Path) -> None:
    one = {name: {"proxy": [0.0] * 8, "gold": [1.0 + 0.25 * n for n in range(8)]} for name in script.JOINED}
    text = script.page({"few": [one, one], "biased": [one, one]}, (11, 12))
    assert text.endswith(f"{script.PLOT}\n")
    few, _ = script.drawn(text).values()
    assert few["single"][:8] == [1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75]
    assert len(few["single"]) == 8 + 3
    script.draw(text, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1_000
