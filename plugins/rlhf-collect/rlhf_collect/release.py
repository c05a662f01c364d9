"""Releases: numbered states of a study. A release is a pure function of a watermark and its parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import chain as joined
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from rlhf_collect.aggregate.dawid_skene import dawid_skene
from rlhf_collect.aggregate.majority import majority
from rlhf_collect.aggregate.votes import Question, Verdict, Vote
from rlhf_collect.shapes.every import SHAPES
from rlhf_collect.shapes.labelled import Labelled
from rlhf_collect.store import chain, hints, judged, tables
from rlhf_collect.study import Study
from rlhf_plugins import DataError, Group

AGGREGATIONS: dict[str, Callable[[Sequence[Vote]], Mapping[Question, Verdict]]] = {
    "majority": majority,
    "dawid_skene": dawid_skene,
}


@dataclass(frozen=True)
class Parameters:
    """What a release depends on beside its watermark. Raises DataError where a number is out of its range."""

    aggregate: str = "majority"
    min_agreement: float = 0.0  # items below it are left out and counted
    test_fraction: float = 0.1  # share of the clusters of prompts that are held out
    without: tuple[int, ...] = ()  # ids of the people whose votes do not count
    verified: bool = False  # answers that confirm or correct a label that was shown count as votes too

    def __post_init__(self) -> None:
        if self.aggregate not in AGGREGATIONS:
            raise DataError(f"unknown aggregation {self.aggregate!r} (known: {', '.join(AGGREGATIONS)})")
        for name in ("min_agreement", "test_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise DataError(f"{name} should be at least 0 and below 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Release:
    """The labelled items of a release and what was left out, by reason."""

    number: int
    kind: str
    rows: tuple[Labelled, ...]
    left_out: Mapping[str, int]
    digest: str


class Forgotten(DataError):
    """A release counted judgements of a person who was deleted since."""


def make(study: Study, parameters: Parameters) -> Release:
    """The next release, of all that was said until now, without persons that are paused now.

    Raises:
        DataError: the aggregation is one of pairs, and the study of another kind; nothing was judged.
    """
    if parameters.aggregate == "dawid_skene" and study.kind.name != "pair":
        raise DataError(f"dawid_skene finds the labels of pairs; a {study.kind.name} is made of all votes alike")
    with study.database.writing() as connection:
        last = _newest(connection)
        paused = select(tables.person.c.id).where(tables.person.c.state == "paused")
        without = tuple(sorted({*parameters.without, *connection.execute(paused).scalars()}))
        record = asdict(parameters) | {"without": list(without)}
        until, number = judged.watermark(connection), last.number + 1 if last else 1
        made = _build(connection, study, number, until, record)
        if not made.rows and not made.left_out:
            raise DataError(f"{study.folder}: nobody has judged an item, so that no release is made")
        values = {"number": number, "watermark": until, "parameters": record, "digest": made.digest}
        connection.execute(insert(tables.release).values(**values, at=study.now()))
        chain.append(connection, study.now(), "released", values)
    return made


def load(study: Study, number: int) -> Release:
    """A release as it was made.

    Raises:
        DataError: there is none of that number, or its rows are not the same.
        Forgotten: they are not since a person was deleted.
    """
    with study.database.reading() as connection:
        found = connection.execute(select(tables.release).where(tables.release.c.number == number)).first()
        if found is None:
            last = _newest(connection)
            count = last.number if last else 0
            raise DataError(f"{study.folder}: has no release {number}, {f'only 1 to {count}' if count else 'nor any'}")
        made = _build(connection, study, number, found.watermark, found.parameters)
        deleted = (tables.log.c.what == "forgotten") & (tables.log.c.at >= found.at)
        since = connection.execute(select(tables.log.c.number).where(deleted).limit(1)).first()
    if made.digest != found.digest and since:
        raise Forgotten(
            f"{study.folder}: release {number} counted judgements of people who were deleted since, and cannot be made"
            f" again; make the next: rlhf collect export {study.folder}"
        )
    if made.digest != found.digest:
        raise DataError(f"{study.folder}: release {number} has other rows than when it was made")
    return made


def newest(study: Study) -> int:
    """The number of the last release; 0 where there is none."""
    with study.database.reading() as connection:
        last = _newest(connection)
    return last.number if last else 0


def difference(before: Release, after: Release) -> dict[str, list[str]]:
    """The items, by digest, that only one of two releases has, and those that are labelled otherwise."""
    first, second = (
        {one.item.digest: SHAPES[release.kind].row(one) for one in release.rows} for release in (before, after)
    )
    return {
        "added": sorted(second.keys() - first.keys()),
        "removed": sorted(first.keys() - second.keys()),
        "changed": sorted(name for name in first.keys() & second.keys() if first[name] != second[name]),
    }


def _newest(connection: Connection) -> Row[Any] | None:
    return connection.execute(select(tables.release).order_by(tables.release.c.number.desc()).limit(1)).first()


def _build(connection: Connection, study: Study, number: int, until: int, record: Mapping[str, Any]) -> Release:
    parameters = Parameters(**{**record, "without": tuple(record["without"])})
    every = judged.votes(connection, study.kind, until, parameters.without, verified=True)
    said = [vote for vote in every if parameters.verified or not vote.verified]
    voted = _by_item(said)
    verdicts = {**AGGREGATIONS[parameters.aggregate](said)}
    reviewed = _by_item(judged.votes(connection, study.kind, until, parameters.without, "review"))
    for vote in joined.from_iterable(reviewed.values()):
        verdicts[vote.question] = _decided(vote, verdicts.get(vote.question))
    parts: dict[int, dict[str, Verdict]] = {}
    for (item, part), verdict in verdicts.items():
        if item in voted:
            parts.setdefault(item, {})[part] = verdict
    items = judged.items(connection, parts.keys())
    led = hints.changed_after(connection, study.kind, until)
    shown = _by_item(every).keys() - voted.keys()
    left_out = +Counter(
        {
            "answered by a reviewer alone": len(reviewed.keys() - voted.keys() - shown),
            "answered with a label shown (--verified counts them)": len(shown),
        }
    )
    rows = []
    for item, found in parts.items():
        split = _split(items[item].cluster, parameters.test_fraction)
        moved = len({vote.person for vote in voted[item] if (item, vote.person) in led})
        votes = voted[item] if study.kind.name == "pair" else reviewed.get(item, voted[item])
        verified = len({vote.person for vote in voted[item] if vote.verified})
        labelled = Labelled(items[item], found, tuple(votes), split, moved, verified)
        if study.kind.voted and all(verdict.label is None for verdict in found.values()):
            left_out["undecided"] += 1
        elif labelled.agreement < parameters.min_agreement:
            left_out[f"agreement below {parameters.min_agreement:g}"] += 1
        else:
            rows.append(labelled)
    rows = _apart(rows, left_out)
    return Release(number, study.kind.name, tuple(rows), dict(left_out), chain.digest(*map(_repeated, rows)))


def _apart(rows: Sequence[Labelled], left_out: Counter[str]) -> list[Labelled]:
    """The rows without those to train on whose prompt is to be tested on in another cluster; counted."""
    words = [Group(one.item.prompt).prompt_words for one in rows]
    tested = {own for own, one in zip(words, rows, strict=True) if one.split == "test"}
    kept = [one for own, one in zip(words, rows, strict=True) if one.split == "test" or own not in tested]
    left_out += Counter({"prompt is in a cluster to test on too": len(rows) - len(kept)})
    return kept


def _repeated(one: Labelled) -> list[Any]:
    """What a release has to say again of an item, without numbers that another library may round otherwise."""
    labels = {part: verdict.label for part, verdict in one.verdicts.items()}
    return [one.item.digest, one.split, labels, one.provenance()["votes"]]


def _decided(vote: Vote, before: Verdict | None) -> Verdict:
    """A reviewer's label, with the share of the others' votes that it has."""
    share = before.probabilities.get(vote.label, 0.0) if before else 0.0
    return Verdict(vote.label, {vote.label: 1.0}, share, 1.0, decided=True)


def _by_item(votes: Iterable[Vote]) -> dict[int, list[Vote]]:
    found: dict[int, list[Vote]] = {}
    for vote in votes:
        found.setdefault(vote.item, []).append(vote)
    return found


def _split(cluster: str, fraction: float) -> str:
    """By its hash alone, so that a later release puts a cluster where an earlier one did, whatever was added since."""
    place = int.from_bytes(blake2b(cluster.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") / 2**64
    return "test" if place < fraction else "train"
