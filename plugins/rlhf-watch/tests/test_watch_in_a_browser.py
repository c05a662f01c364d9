"""The live page in Chromium: 100 runs on a desk and a phone, light and dark; skipped where there is no browser."""

from __future__ import annotations

from collections.abc import Iterator
from math import sin
from pathlib import Path
from typing import Any

import pytest
from browsing import is_dark, opened, served, smallest_text, too_wide, violations
from rlhf_watch.page.app import site, static_page
from rlhf_watch.page.board import Board
from test_watch_page import EVIL, metric, write

LOOKS = [(1280, False), (390, True), (1280, True), (390, False)]  # widths, and whether it is dark
NOTICES = """
window.opened = [];
window.Notification = class {
  static permission = "default";
  static async requestPermission() { this.permission = "granted"; }
  constructor(title, { body }) { window.opened.push(body); }
};
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 runs that ended, one with HTML in its samples and its name."""
    found: Path = tmp_path_factory.mktemp("runs")
    for number in range(99):
        steps = ((step, sin(step / 9 + number)) for step in range(60))
        spread = {f"reward_p{rank}": rank / 50 - 1 for rank in (5, 25, 50, 75, 95)}
        lines = [metric(step, reward=mean, kl=step * 0.1, length=20.0, **spread) for step, mean in steps]
        write(found / f"run-{number:02}", lines, status="finished")
    write(found / "<b>evil", [metric(step, reward=float(step)) for step in range(9)], status="failed")
    stage = found / "<b>evil" / "01-online"
    write(stage, [metric(1, prompt=EVIL, response="m" * 900, reward=0.5)], name="samples.jsonl")
    for inner in ("recipe.yaml", "status.json"):
        (stage / inner).unlink()
    return found


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with served(site(Board(folder), "t")) as where:
        yield where


def ready(page: Any) -> None:
    """Waits until the newest run's curves are there."""
    page.wait_for_selector("#curves figure svg")


@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_100_runs_fit_can_be_read_and_ask_for_nothing(chromium: Any, address: str, width: int, dark: bool) -> None:
    with opened(chromium, width, dark) as (page, faults):
        page.goto(f"{address}/?token=t")
        ready(page)
        assert is_dark(page) is dark
        assert page.locator("#runs li").count() == 100
        for name in ("<b>evil", "run-00", "run-50"):
            page.get_by_role("checkbox", name=f"{name}:").check()
        page.get_by_text("m" * 900).wait_for()
        lines = page.locator("figure:first-child .line")
        lines.nth(2).wait_for()
        assert len(set(lines.evaluate_all("all => all.map((one) => one.getAttribute('stroke'))"))) == 3
        names = page.locator("#curves figcaption > span:first-child").all_inner_texts()
        assert names[0] == "online/reward, bands of 50% and 90%, dashed the median"
        assert not any("_p" in name for name in names)
        assert (page.locator("figure .median").count(), page.locator("figure:first-child .band").count()) == (2, 4)
        assert too_wide(page) == 0
        assert smallest_text(page) >= 9
        assert violations(page) == []
        assert faults == []


def test_curves_are_chosen_without_a_mouse(chromium: Any, address: str) -> None:
    with opened(chromium) as (page, faults):
        page.goto(f"{address}/?token=t")
        ready(page)
        page.keyboard.press("Tab")
        page.keyboard.type("samples")
        assert page.locator("#curves figcaption > span:first-child").all_inner_texts() == ["online/samples: reward"]
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        page.wait_for_function("() => document.querySelectorAll('#curves figure').length === 0")
        assert page.locator("#runs input:checked").count() == 0
        assert page.evaluate("document.activeElement.type") == "checkbox"  # the list was shown again, the focus kept
        assert faults == []


def test_a_new_alarm_of_a_run_that_is_shown_opens_a_window(chromium: Any, tmp_path: Path) -> None:
    write(tmp_path / "now", [metric(0, reward=1.0)])
    alarm = {"monitor": "reward_gap", "message": "too good"}
    write(tmp_path / "now", [metric(1, **alarm)], name="alarms.jsonl")
    with served(site(Board(tmp_path), "t")) as where, opened(chromium) as (page, faults):
        page.add_init_script(NOTICES)
        page.goto(f"{where}/?token=t")
        ready(page)
        page.get_by_role("button", name="Notify of alarms").click()
        page.get_by_text("step 1, reward_gap: too good").wait_for()
        page.get_by_role("button", name="Notify of alarms").wait_for(state="hidden")
        write(tmp_path / "now", [metric(2, **alarm)], name="alarms.jsonl")
        page.wait_for_function("() => window.opened.length")
        assert page.evaluate("window.opened") == ["now, step 2, reward_gap: too good"]
        assert faults == []


def test_the_page_as_one_file_asks_for_nothing(chromium: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(static_page(Board(folder)), encoding="utf-8")
    with opened(chromium, 390, dark=True) as (page, faults):
        page.goto((tmp_path / "page.html").as_uri())
        ready(page)
        assert page.locator("#runs input:checked").count() == 100
        assert page.locator("#made li").all_text_contents() == ["no difference"]
        assert (too_wide(page), violations(page), faults) == (0, [], [])
