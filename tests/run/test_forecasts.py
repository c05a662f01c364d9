"""The forecast of a GPU's memory is shown beside what was taken, and in the message where memory ran out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stubs import Make

from rlhf_plugins.engine import HALF_NORMS
from rlhf_plugins.engine.half import trials
from rlhf_plugins.errors import RunError
from rlhf_plugins.forecast.cards import Card
from rlhf_plugins.forecast.forecast import Forecast, StageForecast
from rlhf_plugins.recipe.check import load_recipe
from rlhf_plugins.registry.registry import Registry
from rlhf_plugins.run.files import forecasts
from rlhf_plugins.run.run import run

CARD = Card("small", 8 * 2**30)
PHASES = {"train": {"weights bf16": 2**30, "activations": 3 * 2**30}, "generation": {"KV cache": 2**30}}
RECIPE = "base: sandbox\ndata: rows\noutput_dir: out\nstages: [{stage: make, name: first}]\n"


@pytest.fixture
def go(write: Callable[..., Path], registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    found = Forecast([StageForecast("first", PHASES, CARD), StageForecast("other", {}, CARD, "unknown")], CARD)
    monkeypatch.setattr(forecasts, "of_memory", lambda assembled, say: found)
    return lambda: run(load_recipe(write(RECIPE), registry=registry), say=lambda _: None)


def test_the_report_has_the_forecast_beside_the_peak(go: Callable[[], Any]) -> None:
    go()
    cost = json.loads(Path("out/report.json").read_text())["stages"][0]["cost"]
    assert cost["forecast_bytes"] == 4 * 2**30
    assert cost["peak_bytes"] > 0
    assert '<td data-label="forecast">4.0 GiB</td>' in Path("out/report.html").read_text()


def test_after_a_failed_trial_on_the_card_the_report_has_the_forecast_without_its_path(
    go: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Make, given: Any) -> Any:
        trials.passes(HALF_NORMS, torch.device("cuda", 0), "key", lambda: False)
        return own(self, given)

    found, plain, own = (
        forecasts.of_memory,
        StageForecast("first", {"train": {"activations": 5 * 2**30}}, CARD),
        Make.run,
    )
    with_norms = found(None, None)  # type: ignore[arg-type]
    monkeypatch.setattr(trials, "_PASSED", {})
    monkeypatch.setattr(Make, "run", fails)
    monkeypatch.setattr(
        forecasts, "of_memory", lambda *_: Forecast([plain], CARD) if trials.failed("cuda") else with_norms
    )
    go()
    assert json.loads(Path("out/report.json").read_text())["stages"][0]["cost"]["forecast_bytes"] == 5 * 2**30


def test_a_forecast_is_made_again_only_after_the_stage_whose_trial_failed(
    write: Callable[..., Path], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runs(self: Make, given: Any) -> Any:
        asked.append(self.name)
        trials.passes(HALF_NORMS, torch.device("cuda", 0), "key", lambda: False)
        return own(self, given)

    asked, own = list[str](), Make.run
    monkeypatch.setattr(trials, "_PASSED", {})
    monkeypatch.setattr(Make, "run", runs)
    monkeypatch.setattr(forecasts, "of_memory", lambda *_: asked.append("forecast"))
    three = RECIPE.replace("{stage: make, name: first}", ", ".join(f"{{stage: make, name: s{n}}}" for n in range(3)))
    run(load_recipe(write(three), registry=registry), say=lambda _: None)
    assert asked == ["forecast", "s0", "forecast", "s1", "s2"]


def test_an_error_of_memory_names_stage_consumer_and_forecast(
    go: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Make, "run", full)
    with pytest.raises(RunError, match="stage first, forecast 5.0 GiB of 8.0 GiB, most of it for activations .train."):
        go()


def test_without_a_forecast_the_stage_is_named() -> None:
    assert forecasts.words({}, "first") == "stage first"
