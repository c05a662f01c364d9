"""Kills the server again and again while people judge, counts what was lost.   python bench/kills.py [ROUNDS] [ADDRESS]

Eight people judge as fast as the server answers. After a while drawn at random it is killed with SIGKILL and started
again, and each sends once more what was not acknowledged. At the end every acknowledged judgement has to be in the
study, once. With an address, such as postgresql://USER@HOST/NAME, the study is in that empty database.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from threading import Thread

from clients import Client
from rlhf_collect.page.app import cookie_of
from rlhf_collect.settings import Settings
from rlhf_collect.store import chain, people, tables
from rlhf_collect.store.rows import Asked, Written
from rlhf_collect.study import ADDRESS, Study, new_study
from serving import Servers
from sqlalchemy import func, select, text

CLIENTS, ITEMS_A_ROUND, VOTES = 8, 12, 3
LONGEST = 0.8  # seconds of a round
FASTER = 100  # the study's clock, so that nobody seems too fast to read, and leases end within the run


def clock() -> float:
    """Seconds that pass faster."""
    return time.time() * FASTER


def fill(folder: Path, items: int, address: str) -> tuple[Study, list[str]]:
    """A study and the cookie of a session for each client."""
    if address:
        (folder / ADDRESS).write_text(address)
    study = new_study(folder, Settings(votes=VOTES, most_votes=VOTES, gold_share=0.0, gold_share_first=0.0))
    study.now = clock
    study.add(Asked("", f"prompt {n}", (Written(f"one {n}", {}), Written(f"two {n}", {}))) for n in range(items))
    with study.database.writing() as connection:
        tickets = [people.invite(connection, clock(), f"client {n}") for n in range(CLIENTS)]
        cookies = [f"{cookie_of(study)}={people.enter(connection, clock(), ticket)}" for ticket in tickets]
    return study, cookies


def rounds(servers: Servers, clients: list[Client], count: int, random: Random) -> None:
    """Starts a server, lets the clients work and kills it, `count` times; a last one takes what is left."""
    over = False
    threads = [Thread(target=client.work, args=(lambda: over,)) for client in clients]
    for number in range(count + 1):
        server = servers.start()
        if not number:
            for thread in threads:
                thread.start()
        time.sleep(random.uniform(0.02, LONGEST))
        if number == count:
            over = True
            for thread in threads:
                thread.join()
        servers.kill(server)


def faults(study: Study, clients: list[Client]) -> dict[str, int]:
    """What must all be 0."""
    annotation, slot = tables.annotation, tables.slot
    in_file = study.database.engine.dialect.name == "sqlite"
    acknowledged = {key: choice for client in clients for key, choice in client.acknowledged.items()}
    with study.database.reading() as connection:
        rows = connection.execute(select(annotation)).all()
        kept = {row.key: study.kind.shown(row.value, row.sides)["choice"] for row in rows}
        twice = (
            select(annotation.c.item).where(annotation.c.surplus == 0).group_by(annotation.c.item, annotation.c.person)
        )
        over = select(annotation.c.item).where(annotation.c.surplus == 0).group_by(annotation.c.item)
        filled = connection.execute(select(func.count()).where(slot.c.state == "done")).scalar_one()
        return {
            "acknowledged and lost": sum(key not in kept for key in acknowledged),
            "kept with another choice": sum(kept.get(k, str(c)) != str(c) for k, c in acknowledged.items()),
            "votes given twice": len(connection.execute(twice.having(func.count() > 1)).all()),
            "items with too many votes": len(connection.execute(over.having(func.count() > VOTES)).all()),
            "filled slots without a vote": filled - sum(not row.surplus for row in rows),
            "broken events": int(chain.first_broken(connection) is not None),
            "faults of the file": int(in_file and connection.scalar(text("PRAGMA integrity_check")) != "ok"),
        }


def main(count: int, address: str = "") -> int:
    """Runs and prints; 0 where nothing was lost."""
    with TemporaryDirectory() as folder:
        study, cookies = fill(Path(folder), count * ITEMS_A_ROUND + 50, address)
        study.close()
        servers = Servers(Path(folder), clock)
        clients = [Client(servers.port, cookie, Random(n)) for n, cookie in enumerate(cookies)]
        start = time.time()
        rounds(servers, clients, count, Random(0))
        servers.close()
        found = faults(study, clients)
    total = sum(len(client.acknowledged) for client in clients)
    print(f"{count} kills in {time.time() - start:.0f} s, {total} judgements acknowledged")
    print("\n".join(f"{number} {name}" for name, number in found.items()))
    return int(any(found.values()) or total < count)


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500, *sys.argv[2:]))
