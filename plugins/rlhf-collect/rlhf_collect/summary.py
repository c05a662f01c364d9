"""The numbers of a study: how far people agree, what their votes make of the items, and how each of them works."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from sqlalchemy import Connection, func, select

from rlhf_collect.aggregate.dawid_skene import dawid_skene, fit
from rlhf_collect.aggregate.majority import majority
from rlhf_collect.aggregate.votes import Question, Vote, by_question
from rlhf_collect.agreement.coefficients import fleiss, gwet, krippendorff
from rlhf_collect.agreement.counts import Counts, Numbers, count
from rlhf_collect.agreement.couples import Couple, couples
from rlhf_collect.agreement.intervals import NOTHING, Interval, bootstrap
from rlhf_collect.kinds.pair import WORDS
from rlhf_collect.store import chain, hints, judged, tables, watch
from rlhf_collect.study import Study

GATE = 0.4  # Fleiss' kappa, or alpha where items differ in votes, from which a study is fit to train on
SAMPLES = 500


@dataclass(frozen=True)
class Worker:
    """A person's work."""

    id: int
    name: str
    role: str
    state: str
    reason: str
    answered: int
    ability: float | None  # how often right, by Dawid and Skene; None where ratings are averaged
    known: tuple[int, int]  # right, of how many gold items
    seconds: float | None  # median


@dataclass(frozen=True)
class Summary:
    """All of it."""

    items: Mapping[str, int]  # by purpose
    slots: Mapping[str, int]  # by state
    acts: Mapping[str, int]  # answered, skipped, flagged
    votes: int  # on whole items
    labels: Mapping[str, int]  # label -> how many items the majority gives it; `undecided` too
    changed: int  # to which Dawid and Skene give another label than the majority
    agreement: Mapping[str, Interval]  # by the name of the coefficient; of the votes that every item gets
    couples: tuple[Couple, ...]  # the two people who agree least, and the next ones
    shift: Mapping[str, hints.Shift]  # by arm: shown, control
    verified: tuple[int, int]  # answers with a label shown, and how many confirm it
    people: tuple[Worker, ...]
    disputed: tuple[tuple[str, Mapping[str, int]], ...]  # items on which people are most divided, with their votes
    broken: int | None  # the first event of the log that is not as it was

    @property
    def gate(self) -> bool | None:
        """Whether people agree well enough; None where nothing is known yet."""
        value = self.agreement["alpha"].value
        return None if value != value else value > GATE


def summarise(study: Study, samples: int = SAMPLES) -> Summary:
    """Summarises all judgements until now; `samples` are the resamples of the bootstrap."""
    with study.database.reading() as connection:
        said = judged.votes(connection, study.kind, judged.watermark(connection))
        first, second = (majority(said), dawid_skene(said)) if study.kind.voted else ({}, {})
        groups = by_question(said)
        given = [vote for vote in said if not vote.further]
        return Summary(
            _counted(connection, tables.item.c.purpose),
            _counted(connection, tables.slot.c.state, tables.slot.c.purpose == "judged"),
            _counted(connection, tables.annotation.c.act),
            len({(vote.item, vote.person) for vote in said}),
            Counter(verdict.label or "undecided" for verdict in first.values()),
            sum(verdict.label != second[question].label for question, verdict in first.items()),
            _agreement(by_question(given), study.kind.voted, samples),
            couples(given, study.kind.voted),
            hints.shift(connection, study.kind),
            hints.verified(connection, study.kind),
            _people(connection, said, study.kind.voted),
            _disputed(groups),
            chain.first_broken(connection),
        )


def _agreement(groups: Mapping[Question, list[Vote]], voted: bool, samples: int) -> dict[str, Interval]:
    """Alpha and AC1 of all parts with two votes or more, kappa of those with the most frequent number.

    The votes are those that every item gets. Further ones come where people are divided alone: with them, kappa would
    be of the items on which people agree, and alpha would count the others more often. Of ratings, alpha with the
    distance of numbers alone. The parts of an item are drawn together.
    """
    if not voted:
        return _of_ratings(groups, samples)
    labels, items = [[vote.label for vote in votes] for votes in groups.values()], [item for item, _ in groups]
    return _of_labels(count(labels, tuple(WORDS), items).rated(), samples)


def _of_ratings(groups: Mapping[Question, list[Vote]], samples: int) -> dict[str, Interval]:
    """Alpha of each dimension, and the least of them as `alpha`.

    Of all dimensions together it would be high wherever their means differ, however little people agree.
    """
    rated: dict[str, dict[Question, list[int]]] = {}
    for (item, part), votes in groups.items():
        dimension = part.rpartition("_")[0]
        rated.setdefault(dimension, {})[item, part] = [int(vote.label) for vote in votes]
    each = {}
    for dimension, given in rated.items():
        numbers = count(given.values(), clusters=[item for item, _ in given]).rated()
        each[f"alpha of {dimension}"] = bootstrap(_alpha_of_numbers, numbers, samples=samples)
    known = [one for one in each.values() if one.value == one.value]
    return {"alpha": min(known, key=lambda one: one.value, default=NOTHING), **(each if len(each) > 1 else {})}


def _alpha_of_numbers(counts: Counts, times: Numbers) -> float:
    return krippendorff(counts, "interval", times)


def _of_labels(several: Counts, samples: int) -> dict[str, Interval]:
    sizes = Counter(several.table.sum(1).tolist())
    usual = several.exactly(int(sizes.most_common(1)[0][0]) if sizes else 2)
    return {
        "kappa": bootstrap(fleiss, usual, samples=samples),
        "alpha": bootstrap(lambda of, times: krippendorff(of, "nominal", times), several, samples=samples),
        "AC1": bootstrap(gwet, several, samples=samples),
    }


def _disputed(groups: Mapping[Question, list[Vote]], most: int = 10) -> tuple[tuple[str, Mapping[str, int]], ...]:
    votes = {question: Counter(vote.label for vote in given) for question, given in groups.items() if len(given) > 1}
    share = {question: max(labels.values()) / labels.total() for question, labels in votes.items()}
    worst = sorted((one for one in share if share[one] < 1), key=lambda one: (share[one], one))
    return tuple((" ".join(map(str, one)).strip(), dict(votes[one])) for one in worst[:most])


def _people(connection: Connection, said: list[Vote], voted: bool) -> tuple[Worker, ...]:
    ability = fit(said).ability if said and voted else {}
    times: dict[int, dict[int, float]] = {}  # by person and item
    for vote in said:
        times.setdefault(vote.person, {})[vote.item] = vote.seconds
    found = []
    for row in connection.execute(select(tables.person).order_by(tables.person.c.id)):
        right = watch.known_so_far(connection, row.id)
        seconds = median(times[row.id].values()) if row.id in times else None
        known = right.count(True), len(right)
        done = len(times.get(row.id, ()))
        found.append(
            Worker(row.id, row.name, row.role, row.state, row.reason, done, ability.get(row.id), known, seconds)
        )
    return tuple(found)


def _counted(connection: Connection, column: object, *where: object) -> dict[str, int]:
    rows = connection.execute(select(column, func.count()).where(*where).group_by(column))  # type: ignore[call-overload]
    return {str(name): number for name, number in rows.all()}
