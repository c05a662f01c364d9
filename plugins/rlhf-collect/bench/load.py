"""Times the page while many people judge.   python bench/load.py [PEOPLE] [ITEMS] [SECONDS]

Each thinks for about 5 seconds an item, and loads the page of a tenth of the items again. The server is one process;
the people are threads of this one, on the same machine. They judge at random, but for items with a known answer, so
that nobody is paused.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from random import Random
from statistics import quantiles
from tempfile import TemporaryDirectory
from threading import Thread

from clients import Client
from rlhf_collect.page.app import cookie_of
from rlhf_collect.settings import Settings
from rlhf_collect.store import people
from rlhf_collect.store.rows import Asked, Written
from rlhf_collect.study import new_study
from serving import Servers

THINK = 5.0  # seconds
WORDS = ("the", "answer", "says", "what", "is", "asked", "and", "gives", "a", "reason", "for", "each", "claim")


def written(random: Random, words: int) -> str:
    """A text of that many words."""
    return " ".join(random.choice(WORDS) for _ in range(words))


def fill(folder: Path, count: int, items: int) -> list[str]:
    """A study with items of the usual length, some of them gold; the cookie of a session for each person."""
    random = Random(0)
    study = new_study(folder, Settings())
    rows = (
        Asked("", f"{n}: {written(random, 14)}", tuple(Written(f"{i} {written(random, 14)}", {}) for i in range(2)))
        for n in range(items)
    )
    study.add(rows)
    known = (Written("right", {}), Written("wrong", {}))
    study.add(Asked("", f"known {n}", known, purpose="gold", known="tie") for n in range(50))
    with study.database.writing() as connection:
        tickets = [people.invite(connection, study.now(), f"person {n}") for n in range(count)]
        cookies = [f"{cookie_of(study)}={people.enter(connection, study.now(), ticket)}" for ticket in tickets]
    study.close()
    return cookies


def times(name: str, seconds: list[float]) -> str:
    """Median and percentiles in milliseconds."""
    cuts = [1000 * cut for cut in quantiles(seconds, n=100)]
    return f"{name}: {len(seconds)}, median {cuts[49]:.1f} ms, p95 {cuts[94]:.1f} ms, p99 {cuts[98]:.1f} ms"


def main(count: int = 100, items: int = 100_000, seconds: int = 60) -> None:
    """Fills a study, lets people judge for a while, and prints the times."""
    with TemporaryDirectory() as folder:
        start = time.time()
        cookies = fill(Path(folder), count, items)
        print(f"{items} items added in {time.time() - start:.0f} s")
        servers = Servers(Path(folder))
        server = servers.start()
        clients = [Client(servers.port, cookie, Random(n)) for n, cookie in enumerate(cookies)]
        end = time.time() + seconds
        threads = [Thread(target=client.work, args=(lambda: time.time() > end, THINK)) for client in clients]
        for thread in threads:
            thread.start()
            time.sleep(THINK / count)
        for thread in threads:
            thread.join()
        servers.kill(server)
        servers.close()
    print(times("page", [one for client in clients for one in client.pages]))
    print(times("submit and next", [one for client in clients for one in client.submits]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
