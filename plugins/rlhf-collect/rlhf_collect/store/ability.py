"""Who is able: the half of the people who are right most often, by the last answers and Dawid and Skene (1979).

Items on which people are divided go to them first: nobody's further vote says more about such an item.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from sqlalchemy import select, update

from rlhf_collect.aggregate.dawid_skene import fit
from rlhf_collect.aggregate.votes import Vote
from rlhf_collect.store import chain, judged, tables
from rlhf_collect.study import Study

EVERY = 100  # answers of a study, after which people are ranked again
LAST = 3000  # answers that they are ranked by, so that it takes no longer in a large study
LEAST = 10  # votes of a person among them, before which nothing is known
STEPS, TOLERANCE = 20, 1e-3  # EM's, at most and when to stop; an order of people needs no more
person = tables.person


def rank(study: Study) -> None:
    """Writes who is able, where that has changed. Of a kind that is averaged, nobody is."""
    if not study.kind.voted:
        return
    with study.database.reading() as connection:
        until = judged.watermark(connection)
        said = judged.votes(connection, study.kind, until, among=tables.annotation.c.id > until - LAST)
        active = connection.execute(select(person.c.id).where(person.c.state == "active")).scalars().all()
        before = set(connection.execute(select(person.c.id).where(person.c.able == 1)).scalars())
    able = ablest(said, active)
    if able == before:
        return
    with study.database.writing() as connection:
        connection.execute(update(person).values(able=0))
        connection.execute(update(person).where(person.c.id.in_(able)).values(able=1))
        chain.append(connection, study.now(), "ranked", {"able": sorted(able)})


def ablest(said: Sequence[Vote], active: Collection[int]) -> set[int]:
    """The abler half of the active persons with enough votes; of an odd number the one in the middle too."""
    counted = Counter(vote.person for vote in said)
    known = [one for one in active if counted[one] >= LEAST]
    if not known:
        return set()
    ability = fit(said, steps=STEPS, tolerance=TOLERANCE).ability
    return set(sorted(known, key=lambda one: (-ability[one], one))[: (len(known) + 1) // 2])
