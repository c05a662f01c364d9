"""What it changes that divided items go to able people first.   python bench/routing.py [SEEDS] [ITEMS]

20 simulated annotators, of whom 6 choose by chance, take turns at pairs of the sandbox, three votes an item and up to
seven where they are divided, until nothing is left. In the other arm further votes go to whoever comes next. A label is
right where the answer that it prefers has the higher true reward.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory

from crowd import CARELESS, crowded
from rlhf_collect.aggregate.dawid_skene import dawid_skene
from rlhf_collect.aggregate.majority import majority
from rlhf_collect.aggregate.votes import Question, Verdict, Vote
from rlhf_collect.settings import Settings
from rlhf_collect.simulate import Worth, sandbox_rows
from rlhf_collect.store import ability, judged, tables
from rlhf_collect.study import Study
from sqlalchemy import select, update

VOTES = 3
WAYS: dict[str, Callable[[Sequence[Vote]], Mapping[Question, Verdict]]] = {
    "majority": majority,
    "Dawid-Skene": dawid_skene,
}


def in_turn(study: Study) -> None:
    """Further votes are for whoever comes next: all count as able, and nobody is ranked."""
    with study.database.writing() as connection:
        connection.execute(update(tables.person).values(able=1))


def run(folder: Path, items: int, seed: int, routed: bool) -> dict[str, float]:
    """Of one arm: the share of right labels, votes an item, the share of further votes by those who do not guess."""
    rows, worth = sandbox_rows(items, gold=0, training=0, seed=seed)
    with crowded(folder, Settings(votes=VOTES, seed=seed), rows, worth) as (study, desk, people):
        if not routed:
            in_turn(study)
        while sum(one.work(desk, 1) for one in people):
            pass
        return measured(study, worth)


def measured(study: Study, worth: Worth) -> dict[str, float]:
    """The numbers of a study in which everything was judged."""
    with study.database.reading() as connection:
        said = judged.votes(connection, study.kind, judged.watermark(connection))
        items = judged.items(connection, {vote.item for vote in said})
        further = select(tables.slot.c.person).where(tables.slot.c.divided == 1, tables.slot.c.state == "done")
        careful = [one > CARELESS for one in connection.execute(further).scalars()]
    worths = {item: [worth(one.prompt, text) for text in one.answers] for item, one in items.items()}
    best = {item: "ab"[first < second] for item, (first, second) in worths.items()}
    shares = {}
    for name, way in WAYS.items():
        labels = {item: verdict.label for (item, _), verdict in way(said).items()}
        shares[name] = fmean(labels[item] == label for item, label in best.items())
    return {**shares, "votes an item": len(said) / len(best), "further votes by careful people": fmean(careful)}


def main(seeds: int = 5, items: int = 400) -> None:
    """Prints each number of both arms, and the mean difference with its standard error."""
    arms: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    usual = ability.EVERY
    for seed in range(seeds):
        for routed, found in arms.items():
            ability.EVERY = usual if routed else sys.maxsize
            with TemporaryDirectory() as folder:
                found.append(run(Path(folder) / "study", items, seed, routed))
    for name in arms[True][0]:
        ours, theirs = ([found[name] for found in arms[routed]] for routed in (True, False))
        gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
        error = stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
        print(f"{name}: able first {fmean(ours):.3f}, in turn {fmean(theirs):.3f}, {fmean(gaps):+.3f} +- {error:.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
