"""Who is paused, after how many answers, and how often somebody careful is; training items and further votes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rlhf_collect.quality.patterns import Done, by_length, one_sided, too_fast
from rlhf_collect.quality.sequential import Sequential
from rlhf_collect.simulate import join
from rlhf_collect.store import people, tables
from rlhf_collect.store.desk import Desk
from rlhf_collect.store.people import Person
from rlhf_collect.study import Study
from sqlalchemy import func, select
from studies import Browser, Never, pair, study

Answers = Iterator[bool]


def known(seed: int, share: float, count: int) -> list[bool]:
    random = Random(seed)
    return [random.random() < share for _ in range(count)]


def state(of: Study, person: Person) -> tuple[str, str]:
    with of.database.reading() as connection:
        row = connection.execute(select(tables.person).where(tables.person.c.id == person.id)).one()
    return row.state, row.reason


def judge(of: Study, desk: Desk, person: Person, left: int | None = None, seconds: float = 60.0) -> bool:
    """One item, the left side or the good one; whether there was one."""
    task = desk.claim(person)
    if task is None:
        return False
    of.now.tick(seconds)
    choice = left if left is not None else 2 if "good" in task.answers[0] else -2
    desk.submit(person, {"token": task.token, "key": task.token[:30], "choice": str(choice)})
    return True


def test_a_sum_of_log_odds_worked_by_hand() -> None:
    assert not Sequential().alarm([False, False])  # 2 log 5 = 3.2 < log 100 = 4.6
    assert Sequential().alarm([False, False, False])  # 4.8
    assert not Sequential().alarm([False, True, False, False])  # 4.8 - log 1.8 = 4.2


def test_people_who_click_at_random_are_found_after_11_known_answers() -> None:
    needed = [next(n for n in range(1, 200) if Sequential().alarm(known(s, 0.5, 200)[:n])) for s in range(200)]
    assert 9 < sum(needed) / 200 < 12


def test_fewer_than_1_in_100_careful_people_is_ever_paused() -> None:
    assert sum(Sequential().alarm(known(seed, 0.9, 500)) for seed in range(1000)) < 10


def test_always_left_is_found_in_14_answers() -> None:
    assert not one_sided([Done(1, 60, 10, 0)] * 13)
    assert one_sided([Done(1, 60, 10, 0)] * 14) == "14 times in a row the left side"
    assert not one_sided([Done(1, 60, 10, 0)] * 14, before=60)


def test_sides_by_chance_are_rarely_taken_for_a_pattern() -> None:
    random = Random(0)
    people = ([Done(random.choice((-1, 1)), 60, 10, 0) for _ in range(300)] for _ in range(500))
    assert sum(bool(one_sided(done)) for done in people) <= 5  # 0.3% expected


@pytest.mark.parametrize(("seconds", "flagged"), [(1.0, True), (10.0, False)])
def test_nobody_reads_100_words_in_a_second(seconds: float, flagged: bool) -> None:
    assert bool(too_fast([Done(1, seconds, 100, 0)] * 20)) is flagged
    assert not too_fast([Done(1, seconds, 100, 0)] * 20 + [Done(1, 60, 100, 0)] * 20)  # long ago


@pytest.mark.parametrize(("longer", "flagged"), [(39, True), (30, False)])
def test_always_the_longer_answer_is_a_flag(longer: int, flagged: bool) -> None:
    done = [Done(1, 60, 10, 1)] * longer + [Done(-1, 60, 10, 1)] * (40 - longer)
    assert bool(by_length(done)) is flagged
    assert bool(by_length(done + [Done(1, 60, 10, 0)] * 40)) is flagged  # where none is longer


def test_a_person_with_a_flag_is_paused_loses_nothing_and_can_be_let_on(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n) for n in range(16)], votes=1)
    desk, ada = Desk(made, Never()), join(made, "Ada")
    for _ in range(14):
        judge(made, desk, ada, left=5)
    assert state(made, ada) == ("paused", "14 times in a row the left side")
    with made.database.writing() as connection:
        people.set_state(connection, made.now(), ada.id, "active")
        assert connection.execute(select(func.count()).select_from(tables.annotation)).scalar() == 14
    judge(made, desk, ada, left=5)
    assert state(made, ada) == ("active", "")


def rows_with_training(right: str) -> list[Any]:
    more = {"purpose": "training", "known": right, "explanation": "because"}
    law = [pair(n, domain="law", cluster="") for n in range(2)]
    return [pair(10, domain="law", **more), pair(11, domain="law", **more), *law, pair(5, domain="")]


@pytest.mark.parametrize(("right", "items"), [("a", 5), ("b", 3)])
def test_who_fails_the_training_of_a_domain_gets_none_of_its_items(tmp_path: Path, right: str, items: int) -> None:
    made = study(tmp_path, rows_with_training(right))
    desk, ada = Desk(made, Never()), join(made, "Ada")
    count = 0
    while judge(made, desk, ada):
        count += 1
    assert count == items


def test_a_skipped_training_item_is_not_passed(tmp_path: Path) -> None:
    made = study(tmp_path, rows_with_training("a"))
    desk, ada = Desk(made, Never()), join(made, "Ada")
    for key in ("first", "second"):
        task = desk.claim(ada)
        assert task
        desk.submit(ada, {"token": task.token, "key": key, "act": "skipped"})
    assert [judge(made, desk, ada) for _ in range(2)] == [True, False]  # the item without a domain alone


def test_a_known_answer_comes_to_each_person_once_and_is_kept(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1), pair(2, purpose="gold", known="a")], gold_share_first=1.0)
    desk, ada, ben = Desk(made), join(made, "Ada"), join(made, "Ben")
    assert [judge(made, desk, ada) for _ in range(3)] == [True, True, False]
    judge(made, desk, ben, left=0)
    with made.database.reading() as connection:
        rows = connection.execute(select(tables.checked.c.person, tables.checked.c.right)).all()
    assert [tuple(row) for row in rows] == [(ada.id, 1), (ben.id, 0)]


def test_an_item_on_which_people_are_divided_is_asked_again_up_to_7_times(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)])
    desk = Desk(made, Never())
    done = [judge(made, desk, join(made, f"p{n}"), left=0 if n % 2 else None) for n in range(9)]
    assert done == [True] * 7 + [False] * 2


def test_an_item_on_which_people_agree_has_3_votes(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)])
    desk = Desk(made, Never())
    assert [judge(made, desk, join(made, f"p{n}")) for n in range(5)] == [True] * 3 + [False] * 2


def test_the_page_says_at_once_that_somebody_is_paused(tmp_path: Path) -> None:
    browser = Browser(study(tmp_path, [pair(n) for n in range(16)], votes=1), "Ada")
    for _ in range(14):
        assert "Your work is paused" not in browser.page
        browser.judge(choice="5")
    assert "Your work is paused: 14 times in a row the left side." in browser.page
