"""Reports in Chromium, on a desk and on a phone, light and dark; skipped where there is no browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browsing import is_dark, opened, smallest_text, too_wide, violations
from marks import slow

from rlhf_plugins.report.page import page as written
from rlhf_plugins.report.schema import Report
from rlhf_plugins.report.seeds_page import seeds_page

LOOKS = [(1280, False), *slow((1280, True), (390, False), (390, True))]  # widths, and whether it is dark


@pytest.fixture(scope="module")
def address(html: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a whole report."""
    file: Path = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(html, encoding="utf-8")
    return file.as_uri()


@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_a_report_fits_can_be_read_and_asks_for_nothing(chromium: Any, address: str, width: int, dark: bool) -> None:
    with opened(chromium, width, dark) as (page, faults):
        page.goto(address)
        assert is_dark(page) is dark
        page.locator("details").evaluate_all("all => all.forEach((one) => one.open = true)")
        assert too_wide(page) == 0
        assert smallest_text(page) >= 9
        assert violations(page) == []
        assert faults == []


def test_a_report_of_reward_models_fits_a_phone(chromium: Any, rewards: Report, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(written(rewards), encoding="utf-8")
    with opened(chromium, 390) as (page, faults):
        page.goto((tmp_path / "report.html").as_uri())
        page.locator("details").evaluate_all("all => all.forEach((one) => one.open = true)")
        assert (too_wide(page), violations(page), faults) == (0, [], [])


def test_a_page_of_seeds_fits_a_phone(chromium: Any, fields: dict[str, Any], tmp_path: Path) -> None:
    report = Report.model_validate(fields)
    beta = {"beta 0.5": [report.model_copy(update={"title": f"beta-0.5_seed-{seed}"}) for seed in range(3)]}
    (tmp_path / "report.html").write_text(seeds_page("sweep", beta), encoding="utf-8")
    with opened(chromium, 390, dark=True) as (page, faults):
        page.goto((tmp_path / "report.html").as_uri())
        assert (too_wide(page), violations(page), faults) == (0, [], [])


def test_the_button_turns_the_page_dark_and_light(chromium: Any, address: str) -> None:
    with opened(chromium) as (page, faults):
        page.goto(address)
        paper = "getComputedStyle(document.body).backgroundColor"
        seen = [page.evaluate(paper)]
        for _ in range(2):
            page.get_by_role("button", name="light / dark").press("Enter")
            seen.append(page.evaluate(paper))
        assert seen == ["rgb(255, 255, 255)", "rgb(22, 24, 28)", "rgb(255, 255, 255)"]
        assert faults == []


def test_a_table_is_sorted_from_the_keyboard(chromium: Any, address: str) -> None:
    with opened(chromium) as (page, _):
        page.goto(address)
        page.get_by_role("button", name="length").press("Enter")
        names = page.locator("#policies table.sortable tbody th").evaluate_all(
            "all => all.map((one) => one.dataset.value)"
        )
        assert names == ["best_of_16", "ppo", "dpo", "ipo", "sft"]  # 37.3, 37.1, 36.8, 36.4, 34.5 tokens
