"""The pages in Chromium: axe-core on each in each language, a session without a mouse, a lost network, attacks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from browsing import opened, served, too_wide, violations
from rlhf_collect.page.app import LOOPBACK, site
from rlhf_collect.store import judged, people, tables
from rlhf_collect.store.desk import Desk
from rlhf_collect.store.rows import Asked, Written
from rlhf_collect.study import Study
from sqlalchemy import select
from studies import Never, pair, study
from test_collect_safety import ATTACKS

TABLE = "| a | table |\n|---|---|\n| of | " + "two " * 40 + "|"
FORMULA = "$$\\sum_{i=1}^n \\frac{x_i}{2} = " + " + ".join(f"x_{{{n}}}" for n in range(40)) + "$$"
HARD = f"A word of {'m' * 300}\n\n{FORMULA}\n\n{TABLE}\n\n```\n{'x = 1; ' * 60}\n```"
KINDS: dict[str, dict[str, Any]] = {
    "pair": {},
    "ranking": {"kind": "ranking"},
    "rating": {"kind": "rating", "dimensions": ("helpful", "honest")},
}

pytestmark = pytest.mark.slow


def hard(number: int, answers: int, **more: Any) -> Asked:
    """A row whose texts are hard to lay out."""
    texts = tuple(Written(f"{number}.{n} {HARD}", {}) for n in range(answers))
    return Asked("", f"prompt {number} {HARD}", texts, **more)


def ticket(of: Study, name: str, role: str = "annotator", language: str = "en") -> str:
    with of.database.writing() as connection:
        secret = people.invite(connection, of.now(), name, role)
        people.speak(connection, people.named(connection, name), language)
    return secret


def site_of(made: Study) -> Any:
    """A context with its address; nobody gets a gold item by chance."""
    return served(site(made, LOOPBACK, Desk(made, Never())))


@contextmanager
def entered(chromium: Any, made: Study, address: str, name: str = "Ada", **context: Any) -> Iterator[tuple[Any, Any]]:
    """A page of the person, who opened the link with the keyboard."""
    with opened(chromium, **context) as (page, faults):
        page.goto(f"{address}/enter?ticket={ticket(made, name)}")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("#judge")
        yield page, faults


def press(page: Any, *keys: str) -> None:
    """Presses keys, and waits for the next item after the last."""
    before = page.locator("input[name=token]").input_value()
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_function("(old) => document.querySelector('input[name=token]')?.value !== old", arg=before)


def tab_to(page: Any, name: str) -> None:
    """Moves the focus until it is on a button of that name."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == name:
            return
    raise AssertionError(f"Tab does not lead to {name}")


def values(made: Study) -> dict[int, Any]:
    """What was said, by the number of the item."""
    with made.database.reading() as connection:
        return {vote.item: vote.value for vote in judged.votes(connection, made.kind, judged.watermark(connection))}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Study, str]]]:
    """A study of each kind, and where it is served."""
    with ExitStack() as stack:
        found = {}
        for kind, settings in KINDS.items():
            rows = [hard(n, 2 if kind == "pair" else 4) for n in range(9)]
            rows += [hard(10, 2, purpose="training", known="a", explanation=HARD)] * (kind == "pair")
            made = study(tmp_path_factory.mktemp(kind), rows, votes=3, pass_mark=0.0, **settings)
            found[kind] = made, stack.enter_context(site_of(made))
        yield found


def faulty(page: Any) -> list[str]:
    """What is wrong on the page as it is."""
    wide = too_wide(page)
    return [f"{page.url} {fault}" for fault in violations(page) + [f"is {wide} px too wide"] * (wide > 0)]


@pytest.mark.parametrize("language", ["en", "ar", "es", "zh"])
def test_axe_finds_nothing_on_any_page_in_any_language(chromium: Any, places: Any, language: str) -> None:
    made, address = places["pair"]
    with opened(chromium, 320, dark=language in ("zh", "ar")) as (page, faults):
        page.goto(f"{address}/enter?ticket={ticket(made, f'lead {language}', 'lead', language)}")
        found = faulty(page)
        page.locator("button").press("Enter")
        page.wait_for_selector("#judge")
        found += faulty(page)
        press(page, "2")
        found += faulty(page)  # with the explanation of a training item
        press(page, "Shift+2")
        for path in ("/mine", "/guidelines", "/lead", "/again/last"):
            page.goto(address + path)
            found += faulty(page)
        page.context.clear_cookies()
        page.goto(address)
        found += faulty(page)
    assert found == []
    assert [fault for fault in faults if "401" not in fault] == []


@pytest.mark.parametrize("kind", ["ranking", "rating"])
def test_axe_finds_nothing_on_other_kinds(chromium: Any, places: Any, kind: str) -> None:
    made, address = places[kind]
    for name, language in {"Ada": "en", "Aya": "ar"}.items():
        with opened(chromium, 320, dark=name == "Aya") as (page, faults):
            page.goto(f"{address}/enter?ticket={ticket(made, name, 'annotator', language)}")
            page.locator("button").press("Enter")
            page.wait_for_selector("#judge")
            assert (faulty(page), faults) == ([], [])


def test_pairs_are_judged_without_a_mouse(chromium: Any, tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n) for n in range(6)], votes=1)
    wanted: dict[str, int] = {}
    with site_of(made) as address, entered(chromium, made, address) as (page, faults):
        for key, left in {"2": 2, "Shift+3": -3, "0": 0, "Enter": 4}.items():
            prompt = page.locator(".prompt").inner_text()
            wanted[prompt] = left if page.locator("article").first.inner_text().startswith("good") else -left
            if key == "Enter":
                tab_to(page, "◀ 4")
            press(page, key)
        press(page, "s")
        page.keyboard.press("u")
        page.wait_for_url("**/again/last")
        assert faults == []
    with made.database.reading() as connection:
        prompts = {item.id: item.prompt for item in judged.items(connection, range(1, 7)).values()}
    assert {prompts[item]: value for item, value in values(made).items()} == wanted


def test_a_label_is_confirmed_with_one_key(chromium: Any, tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n, verify=-3) for n in range(2)], votes=1)
    with site_of(made) as address, entered(chromium, made, address) as (page, faults):
        assert faulty(page) == []
        press(page, "Enter")
        assert faults == []
    with made.database.reading() as connection:
        rows = connection.execute(select(tables.annotation.c.value, tables.annotation.c.verified)).all()
    assert [tuple(row) for row in rows] == [(-3, 1)]


def shown_order(page: Any) -> list[int]:
    """The places in the item of the answers that are shown."""
    return [int(re.findall(r"\d+\.(\d+) A word", text)[0]) for text in page.locator("article").all_inner_texts()]


def test_a_ranking_is_given_without_a_mouse(chromium: Any, places: Any) -> None:
    made, address = places["ranking"]
    with entered(chromium, made, address, "Bea") as (page, faults):
        answers = shown_order(page)
        press(page, *"2143", "Enter")  # the second of those shown is the best
        assert faults == []
    assert list(values(made).values()) == [[[2, 1, 4, 3][answers.index(n)] for n in range(4)]]


def test_ratings_are_given_without_a_mouse(chromium: Any, places: Any) -> None:
    made, address = places["rating"]
    with entered(chromium, made, address, "Bea") as (page, faults):
        answers = shown_order(page)
        press(page, *"76543217", "Enter")  # helpful and honest of the first that is shown, and so on
        assert faults == []
    helpful, honest = ([rated[answers.index(n)] for n in range(4)] for rated in ([7, 5, 3, 1], [6, 4, 2, 7]))
    assert list(values(made).values()) == [{"helpful": helpful, "honest": honest}]


def test_a_lost_network_loses_no_answer(chromium: Any, tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n) for n in range(3)], votes=1)
    with site_of(made) as address, entered(chromium, made, address) as (page, _):
        page.context.set_offline(True)
        page.keyboard.press("3")
        page.get_by_text("Not sent yet: 1.").wait_for()
        assert values(made) == {}
        page.context.set_offline(False)
        page.get_by_text("✓ Saved").wait_for()
    assert [abs(value) for value in values(made).values()] == [3]


def test_texts_that_attack_run_nothing_load_nothing_and_break_no_page(chromium: Any, tmp_path: Path) -> None:
    texts = [text.replace("\0", "").replace("\ud800", "") for text in ATTACKS]
    rows = [Asked("", texts[n], tuple(Written(text, {}) for text in texts[n : n + 6])) for n in (0, 6, 12, 20)]
    made = study(tmp_path, rows, kind="ranking")
    with site_of(made) as address, entered(chromium, made, address, ATTACKS[1]) as (page, faults):
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        for _ in rows:
            assert page.locator("article").count() == 6
            assert faulty(page) == []
            press(page, "s")
        assert faults == []
