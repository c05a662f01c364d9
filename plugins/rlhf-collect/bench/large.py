"""Times what a request and a training ask of a study with many judgements.   python bench/large.py [JUDGEMENTS]...

Each number of judgements (10000 and 100000) is that of a study of pairs with three votes each by 20 people, written
straight into the tables. One more person, and one of the 20, then judge at the desk; the judge `people` asks about 64
pairs that are judged already. Medians in milliseconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from secrets import token_urlsafe
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from load import written
from rlhf_collect.settings import Settings
from rlhf_collect.simulate import join
from rlhf_collect.store import answered, history, judged, tables
from rlhf_collect.store.desk import Desk
from rlhf_collect.store.people import Person
from rlhf_collect.store.rows import Asked, Written
from rlhf_collect.study import Study, new_study
from rlhf_collect.summary import summarise
from sqlalchemy import func, insert, select, update

PEOPLE, VOTES, ASKED, TIMES = 20, 3, 64, 20
OPEN = 2000  # items that nobody judged


def pairs(count: int) -> list[tuple[str, str, str]]:
    """Prompts with two answers of the usual length; the first ones are the same in every study."""
    random = Random(0)
    texts = ([written(random, 14) for _ in range(3)] for _ in range(count))
    return [(f"{n}: {prompt}", f"a {a}", f"b {b}") for n, (prompt, a, b) in enumerate(texts)]


def fill(folder: Path, judgements: int) -> tuple[Study, list[Person]]:
    """A study with that many judgements, and its people."""
    study, done = new_study(folder, Settings(votes=VOTES)), judgements // VOTES
    study.add(Asked("", prompt, (Written(a, {}), Written(b, {}))) for prompt, a, b in pairs(done + OPEN))
    people = [join(study, f"person {n}") for n in range(PEOPLE)]
    random, slot = Random(1), tables.slot
    with study.database.writing() as connection:
        last = connection.execute(select(func.min(tables.item.c.id))).scalar_one() + done
        places = connection.execute(select(slot).where(slot.c.item < last).order_by(slot.c.item)).all()
        rows = [
            {
                **{"slot": place.id, "item": place.item, "sides": place.sides, "version": 1, "key": token_urlsafe(8)},
                **{"person": people[(place.item + place.ordinal) % PEOPLE].id, "act": "answered", "reason": ""},
                **{"value": random.choice((-2, 0, 2)), "seconds": 9.0, "guideline": 1, "surplus": 0},
                "at": study.now(),
            }
            for place in places
        ]
        connection.execute(insert(tables.annotation), rows)
        connection.execute(update(slot).where(slot.c.item < last).values(state="done"))
    return study, people


def timed(work: Callable[[], object], times: int = TIMES) -> str:
    """The median of so many calls."""
    found = []
    for _ in range(times):
        start = perf_counter()
        work()
        found.append(perf_counter() - start)
    return f"{1000 * median(found):.1f}"


def judge(desk: Desk, person: Person) -> None:
    """One item."""
    task = desk.claim(person)
    assert task
    desk.submit(person, {"token": task.token, "key": token_urlsafe(8), "choice": "2"})


def measure(judgements: int) -> None:
    """Prints a line for each request."""
    with TemporaryDirectory() as folder:
        study, people = fill(Path(folder), judgements)
        desk, asked = Desk(study, Random(0)), pairs(ASKED)
        wanted = {found[0] for found in answered.items_of(study, asked) if found}
        for name, person in (("of the 20", people[0]), ("who is new", join(study, "new"))):
            print(f"{judgements}: one {name}: next item and judgement {timed(lambda who=person: judge(desk, who))} ms")
            print(f"{judgements}: one {name}: count {timed(lambda who=person: history.answered(study, who))} ms")
            print(f"{judgements}: one {name}: last answers {timed(lambda who=person: history.latest(study, who))} ms")
        print(f"{judgements}: judge: items of {ASKED} pairs {timed(lambda: answered.items_of(study, asked), 5)} ms")
        print(f"{judgements}: judge: which are open {timed(lambda: answered.open_items(study, wanted), 5)} ms")
        print(f"{judgements}: judge: their votes {timed(lambda: answered.shares(study, wanted), 5)} ms")
        with study.database.reading() as connection:
            print(f"{judgements}: texts of {ASKED} items {timed(lambda: judged.items(connection, wanted), 5)} ms")
        print(f"{judgements}: the lead's page: its numbers {timed(lambda: summarise(study, 200), 1)} ms")
        study.close()


if __name__ == "__main__":
    for number in [*map(int, sys.argv[1:])] or [10_000, 100_000]:
        measure(number)
