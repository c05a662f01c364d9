"""Simulated annotators, who judge at the desk as people do. They know the true worth of answers, and err about it."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from sqlalchemy import select

from rlhf_collect.store import people, tables
from rlhf_collect.store.desk import Desk, Task
from rlhf_collect.store.people import Person
from rlhf_collect.store.rows import Asked, Written
from rlhf_collect.study import Study

Worth = Callable[[str, str], float]  # (prompt, answer) -> how good the answer is
SECONDS = 20.0  # which a simulated person takes for an item
CUTS = (0.8, 1.6, 2.8, 4.5)  # impressions from which a preference is stronger


@dataclass(frozen=True)
class Habits:
    """How one of them judges: the difference of two worths is seen through logistic noise (Bradley and Terry 1952)."""

    ability: float = 4.0  # how steeply the odds rise with the difference; 0 is chance
    tie_margin: float = 0.3  # impressions below it are a tie
    always: int | None = None  # a choice that is made without looking

    def choice(self, left: float, right: float, random: Random) -> int:
        """-5 to 5 in favour of the left."""
        if self.always is not None:
            return self.always
        chance = min(max(random.random(), 1e-12), 1 - 1e-12)
        seen = self.ability * (left - right) + math.log(chance / (1 - chance))
        if abs(seen) < self.tie_margin:
            return 0
        return int(math.copysign(1 + sum(abs(seen) >= cut for cut in CUTS), seen))


class Clock:
    """The clock of a study with simulated annotators, for whom time passes as they judge."""

    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self) -> float:
        """Seconds since 1970."""
        return self.at


@dataclass
class Simulated:
    """One of them, at the desk of a study."""

    person: Person
    habits: Habits
    random: Random
    worth: Worth
    clock: Clock

    def work(self, desk: Desk, most: int) -> int:
        """Judges up to `most` items; how many it did."""
        for done in range(most):
            task = desk.claim(self.person)
            if task is None:
                return done
            self.clock.at += SECONDS
            desk.submit(self.person, self.form(task))
        return most

    def form(self, task: Task) -> dict[str, str]:
        """What it says of an item."""
        left, right = (self.worth(task.prompt, one) for one in task.answers)
        choice = self.habits.choice(left, right, self.random)
        return {"token": task.token, "key": secrets.token_urlsafe(8), "choice": str(choice)}


def join(study: Study, name: str, role: str = "annotator") -> Person:
    """A person without a link."""
    with study.database.writing() as connection:
        token = people.enter(connection, study.now(), people.invite(connection, study.now(), name, role))
        person = people.who(connection, study.now(), token or "")
    assert person
    return person


def worth_of_shown(study: Study, worth: Worth) -> Worth:
    """The worth of texts by the HTML that a page shows of them."""
    with study.database.reading() as connection:
        texts = {
            row.html: row.text
            for table in (tables.prompt, tables.answer)
            for row in connection.execute(select(table.c.html, table.c.text))
        }
    return lambda prompt, answer: worth(texts[prompt], texts[answer])


def sandbox_rows(prompts: int, gold: int = 6, training: int = 2, seed: int = 0) -> tuple[list[Asked], Worth]:
    """Pairs of the sandbox's own writer, some with known answers, and the true reward."""
    from rlhf_plugins import Base, component

    options = {"writer": "sloppy", "prompts": prompts + gold + training, "test_prompts": 1, "pairs": 1}
    data = component("data_format", "sandbox", **options).load(Base("sandbox"), seed)
    random = Random(seed)
    found, purposes = [], ["training"] * training + ["gold"] * gold
    groups = sorted(
        data.train, key=lambda group: -abs(group.gold[0] - group.gold[1])
    )  # the clearest have known answers
    for number, group in enumerate(groups):
        purpose = purposes[number] if number < len(purposes) else "judged"
        order = random.sample((0, 1), 2)  # the better response comes first in the sandbox
        worth = [group.gold[place] for place in order]
        answers = tuple(Written(group.responses[place], {"model": "sandbox writer"}) for place in order)
        known = None if purpose == "judged" else "a" if worth[0] > worth[1] else "b"
        why = "" if known is None else f"Answer {known} is more helpful and honest."
        found.append(Asked(f"sandbox:{number}", group.prompt, answers, "", "", purpose, known, why))
    gold_reward = data.gold
    return found, lambda prompt, answer: float(gold_reward(prompt, answer)["total"])
