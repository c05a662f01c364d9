"""Ends runs N times by a signal at random moments, and checks that each ending is in order.

    python benchmarks/signals.py 40

The runs are those of `kills.py`. Right is: exit code 130, 143 or 129, status `interrupted`, one sentence and no
traceback, a report, no half-written file, and a resume that goes on. Exit code 1 where one ending is wrong.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

from kills import Fork, imported, prepare

ENDINGS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
LONGEST = 60.0  # seconds until a run that was asked has ended
PAUSE = 0.02


def ended(words: list[str], log: Path, after: float, number: int) -> tuple[int | None, str]:
    """The exit code of a run that is sent a signal so many seconds after its first stage began, and what it printed.

    None: it did not end.
    """
    with log.open("wb") as out:
        process = Fork(words, out)
    begun, sent = 0.0, 0.0
    while (code := process.poll()) is None:
        time.sleep(PAUSE)
        now = time.monotonic()
        begun = begun or (now if b": running" in log.read_bytes() else 0.0)
        if begun and not sent and now - begun >= after:
            process.send(number)
            sent = now
        if sent and now - sent > LONGEST:
            process.kill()
            process.wait()
            return None, log.read_text(errors="replace")
    return code, log.read_text(errors="replace")


def faults(place: Path, code: int | None, number: int, printed: str) -> Iterator[str]:
    """What is wrong with an ending."""
    if code is None:
        yield f"it did not end within {LONGEST:.0f} s"
        return
    if code != ENDINGS[signal.Signals(number)]:
        yield f"exit code {code}"
    if "Traceback" in printed:
        yield "a traceback"
    if "go on with: rlhf run --resume" not in printed:
        yield "it does not say how to go on"
    for name in ("status.json", "report.json"):
        status = json.loads((place / name).read_text())["status"] if (place / name).exists() else "missing"
        if status != "interrupted":
            yield f"{name} says {status}"
    drafts = [path for path in place.rglob(".*") if path.is_file() and path.name != ".lock"]
    if drafts:
        yield f"half-written: {drafts[0].relative_to(place)}"


def main(asked: int) -> int:
    """Prints what is wrong. Returns the exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it,
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup this one
    imported()
    folder = Path(mkdtemp(prefix="signals-"))
    recipe, place, log = prepare(folder), folder / "run", folder / "log.txt"
    words = [str(recipe), "checkpoint.every=1 steps", f"output_dir={place}"]
    rng, fell, wrong = random.Random(0), Counter[str](), list[str]()
    while fell.total() < asked:
        number = rng.choice(list(ENDINGS))
        again = ["--resume"] if (place / "status.json").exists() else []
        code, printed = ended([*again, *words], log, rng.uniform(0, 3), number)
        if code == 0:  # it ended before
            shutil.rmtree(place)
            continue
        stage = json.loads((place / "status.json").read_text()).get("stage") if place.exists() else None
        fell[f"{signal.Signals(number).name} in {stage}"] += 1
        found = list(faults(place, code, number, printed))
        wrong += [f"{fell.total()}: {signal.Signals(number).name} in {stage}: {fault}" for fault in found]
        print(f"{fell.total()} signals: {len(wrong)} faults", flush=True)
        if found:
            print(printed[-2000:])
    print("\n".join([*(f"{count:>4} {where}" for where, count in sorted(fell.items())), *wrong]))
    shutil.rmtree(folder)
    return int(bool(wrong))


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 40))
