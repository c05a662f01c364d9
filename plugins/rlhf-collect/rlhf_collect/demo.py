"""The study that one can try: the sandbox's prompts and answers, and three simulated annotators who began to judge."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

from rlhf_collect.settings import Settings
from rlhf_collect.simulate import SECONDS, Clock, Habits, Simulated, join, sandbox_rows, worth_of_shown
from rlhf_collect.store.desk import Desk
from rlhf_collect.study import Study, new_study

CROWD = {"Ada": Habits(6.0), "Ben": Habits(3.0), "Cai": Habits(1.5)}


def make_demo(folder: Path, prompts: int = 40, seed: int = 0) -> tuple[Study, int]:
    """The study, and how many judgements it has."""
    rows, worth = sandbox_rows(prompts, seed=seed)
    study = new_study(folder, Settings(seed=seed))
    study.now = clock = Clock(time.time() - 2 * SECONDS * prompts * len(CROWD))
    study.add(rows)
    shown = worth_of_shown(study, worth)
    desk = Desk(study, Random(seed))
    crowd = [Simulated(join(study, name), habits, Random(name), shown, clock) for name, habits in CROWD.items()]
    judged = sum(one.work(desk, prompts) for one in crowd)
    study.now = time.time
    return study, judged
