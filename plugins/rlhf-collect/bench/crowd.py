"""The simulated annotators of `end_to_end.py` and `routing.py`: 20 people, of whom 6 choose by chance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from rlhf_collect.settings import Settings
from rlhf_collect.simulate import Clock, Habits, Simulated, Worth, join, worth_of_shown
from rlhf_collect.store.desk import Desk
from rlhf_collect.store.rows import Asked
from rlhf_collect.study import Study, new_study

PEOPLE, CARELESS = 20, 6


@contextmanager
def crowded(
    folder: Path, settings: Settings, rows: list[Asked], worth: Worth
) -> Iterator[tuple[Study, Desk, list[Simulated]]]:
    """A new study of these rows, its desk, and people who have joined it, the careless first."""
    study, seed = new_study(folder, settings), settings.seed
    study.now = clock = Clock(1.0e9)
    study.add(rows)
    shown, desk = worth_of_shown(study, worth), Desk(study, Random(seed))
    habits = [Habits(0.0, 0.0)] * CARELESS + [Habits(3.0, 0.0)] * (PEOPLE - CARELESS)
    yield (
        study,
        desk,
        [Simulated(join(study, f"p{n}"), one, Random(f"{seed}:{n}"), shown, clock) for n, one in enumerate(habits)],
    )
    study.close()
