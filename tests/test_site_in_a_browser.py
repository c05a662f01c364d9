"""The site of the documentation in Chromium, on a desk and a phone, light and dark, where `make site` has built it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browsing import chromium, is_dark, opened, too_wide

SITE = Path(__file__).parents[1] / "build" / "site"
PAGES = ("index.html", "recipe/index.html", "components/reward_loss/index.html", "benchmarks/speed/index.html")


@pytest.fixture(scope="module", name="browser")
def _browser() -> Any:
    with chromium() as browser:
        yield browser


@pytest.mark.slow
@pytest.mark.skipif(not SITE.exists(), reason="`make site` builds it")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_and_asks_for_nothing(browser: Any, name: str, width: int, dark: bool) -> None:
    with opened(browser, width, dark) as (page, faults):
        page.goto((SITE / name).as_uri())
        assert (is_dark(page), too_wide(page)) == (dark, 0)
        assert [fault for fault in faults if fault.startswith("asks for")] == []
