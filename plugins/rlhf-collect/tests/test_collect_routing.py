"""Items on which people are divided go first to the abler half of the people; nothing is withheld from the others."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rlhf_collect.aggregate.votes import Vote
from rlhf_collect.simulate import join
from rlhf_collect.store import ability, tables
from rlhf_collect.store.ability import ablest
from rlhf_collect.store.desk import Desk
from rlhf_collect.store.people import Person
from rlhf_collect.study import Study
from sqlalchemy import Row, exists, select, update
from studies import Never, pair, study

slot, annotation, person = tables.slot, tables.annotation, tables.person


def says(of: Study, desk: Desk, who: Person, left: str) -> bool:
    """Whether the person got an item, whose left or right side it then took."""
    task = desk.claim(who)
    if task:
        of.now.tick(60)
        desk.submit(who, {"token": task.token, "key": task.token[:20], "choice": left})
    return task is not None


def open_to(of: Study, who: Person) -> list[Row[tuple[int, float, int]]]:
    """Every free place of an item that the person did not judge."""
    judged = exists().where((annotation.c.item == slot.c.item) & (annotation.c.person == who.id))
    free = (slot.c.state == "free") & (slot.c.purpose == "judged") & ~judged
    with of.database.reading() as connection:
        return list(connection.execute(select(slot.c.divided, slot.c.priority, slot.c.id).where(free)))


def able_in(of: Study) -> list[str]:
    with of.database.reading() as connection:
        return list(connection.execute(select(person.c.name).where(person.c.able == 1).order_by(person.c.id)).scalars())


@settings(max_examples=3, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("15")), min_size=12, max_size=20))
def test_who_comes_gets_the_first_place_of_the_kind_that_is_theirs(steps: list[tuple[int, str]]) -> None:
    with TemporaryDirectory() as folder:
        made = study(Path(folder), [pair(n) for n in range(4)], votes=2, most_votes=4)
        desk, crowd = Desk(made, Never()), [join(made, f"p{n}") for n in range(5)]
        with made.database.writing() as connection:
            connection.execute(update(person).where(person.c.id <= 2).values(able=1))
        for number, choice in steps:
            who = crowd[number]
            free, able = open_to(made, who), who.id <= 2
            task = desk.claim(who)
            assert (task is None) is (not free)
            if task:
                first = min(free, key=lambda one: (one.divided != able, one.priority, one.id))
                with made.database.reading() as connection:
                    mine = select(slot.c.id).where(slot.c.person == who.id, slot.c.state == "leased")
                    assert connection.execute(mine).scalar_one() == first.id
                says(made, desk, who, choice if number % 2 else f"-{choice}")
        made.close()


def test_the_abler_half_is_of_the_active_people_with_enough_votes() -> None:
    right = [Vote(item, who, "a", 1) for item in range(30) for who in (1, 2, 3)]
    wrong = [Vote(item, 4, "ab"[item % 2], 1) for item in range(30)]
    few = [Vote(item, 5, "a", 1) for item in range(ability.LEAST - 1)]
    assert ablest(right + wrong + few, active=(1, 2, 4, 5)) == {1, 2}  # of three, the one in the middle too
    assert ablest(right + wrong + few, active=(4, 5)) == {4}
    assert ablest(right + wrong + few, active=(1, 2, 3, 4)) == {1, 2}
    assert ablest([], active=(1, 2)) == set()


def test_people_are_ranked_again_after_so_many_answers_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ability, "EVERY", 30)
    made = study(tmp_path, [pair(n) for n in range(10)], most_votes=3)
    desk, crowd = Desk(made, Never()), [join(made, name) for name in ("Ada", "Ben", "Cai")]
    for who in crowd:
        assert able_in(made) == []
        for _ in range(10):
            task = desk.claim(who)
            assert task
            better = ("good" in task.answers[0]) ^ (who.name == "Cai" and task.prompt.endswith(("1</p>\n", "3</p>\n")))
            says(made, desk, who, "1" if better else "-1")
    assert able_in(made) == ["Ada", "Ben"]
    with made.database.reading() as connection:
        last = select(tables.log.c.what, tables.log.c.body).order_by(tables.log.c.number.desc()).limit(1)
        assert connection.execute(last).one() == ("ranked", {"able": [1, 2]})


def test_ratings_are_averaged_and_rank_nobody(tmp_path: Path) -> None:
    made = study(tmp_path, [], kind="rating")
    ability.rank(made)
    assert able_in(made) == []
