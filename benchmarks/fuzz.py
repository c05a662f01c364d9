"""Damages recipes and data files N times and counts what becomes of them: read, or refused by a clear message.

    python benchmarks/fuzz.py recipes 10000
    python benchmarks/fuzz.py data 10000

A fault is any other exception, more than 5 seconds, or a message that is long, empty or not printable. Exit code 1
where there is one. A hundred messages are printed at the end, to be read.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

from rlhf_plugins import check_recipe, component
from rlhf_plugins.contract.run import Base
from rlhf_plugins.errors import RlhfError

SECONDS = 5
LONGEST, SHOWN = 4_100, 100  # characters of a line; messages
ODD: list[Any] = [
    *(None, True, False, 0, -1, 2**63, 10**30, 1e308, -0.0, float("nan"), float("inf"), "", " ", "none", "null", "~"),
    *("\x00", "\x1b[31m", "‮", "\udc80", "é" * 3, "a" * 5_000, "../..", "/dev/zero", "[bold]", "${x}", "!!int ''"),
    *([], {}, [[]], [None], {"": ""}, {"use": None}, {"role": "user"}, [{"role": "user", "content": "x"}], [1] * 300),
]
WORDS = [
    b"&a ",
    b"*a",
    b"!!int ",
    b"!!python/name:os.system ",
    b"- ",
    b": ",
    b"{",
    b"]",
    b"\t",
    b"\n",
    b"'",
    b'"',
    b"|",
]
WORDS += [
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xed\xb2\x80",
    b"#",
    b"%",
    b"---\n",
    b",",
    b"\r",
    b"1e999",
    b".nan",
    b"<<",
]
ROWS: dict[str, dict[str, Any]] = {
    "preference": {"prompt": "p", "chosen": "good", "rejected": "bad", "margin": 0.5},
    "comparisons": {"prompt": "p", "response_a": "x", "response_b": "y", "winner": "a"},
    "rankings": {"prompt": "p", "responses": ["x", "y", "z"], "ranks": [0, 1, 2]},
    "ratings": {"prompt": "p", "response": "x", "score": 1.5, "rater": "a"},
    "supervised": {"prompt": "p", "response": "x"},
    "prompts": {"prompt": "p", "answer": "4"},
}


class TooSlow(BaseException):
    """More than `SECONDS` passed."""


@dataclass
class Found:
    """What became of the inputs so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def judge(self, number: int, read: Callable[[], Any]) -> None:
        """Reads one input."""
        start = time.monotonic()
        try:
            with _limited():
                read()
            outcome = "read"
        except RlhfError as error:
            outcome = "refused"
            self.messages.append(str(error))
            if not _is_clear(str(error)):
                self.faults.append(f"{number}: an unclear message: {str(error)!r:.300}")
        except BaseException as error:  # whatever it is, it is a fault
            outcome = type(error).__name__
            self.faults.append(f"{number}: {outcome}: {str(error)!r:.300}")
        self.outcomes[outcome] += 1
        self.slowest = max(self.slowest, time.monotonic() - start)


@contextmanager
def _limited() -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def _is_clear(message: str) -> bool:
    lines = message.splitlines()
    return bool(message.strip()) and all(len(line) <= LONGEST and line.isprintable() for line in lines)


def damaged(value: Any, rng: random.Random) -> Any:
    """A value of JSON with one part of it changed, left out, doubled or replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice([*value])
        kind = rng.random()
        if kind < 0.1:
            return {name: each for name, each in value.items() if name != key}
        if kind < 0.2:
            return {**value, key + rng.choice(["s", "_", " ", "\x00"]): value[key]}
        return {**value, key: damaged(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        kind = rng.random()
        if kind < 0.2:
            return value[:place] + value[place + 1 :]
        return value[:place] + [damaged(value[place], rng)] * (1 + (kind < 0.4)) + value[place + 1 :]
    return rng.choice(ODD)


def scratched(content: bytes, rng: random.Random) -> bytes:
    """Bytes of which some are cut out, doubled or replaced by words that mean something to a parser."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(content) + 1)
        end = min(len(content), at + rng.randint(0, 12))
        content = content[:at] + rng.choice([b"", content[at:end] * 2, rng.choice(WORDS)]) + content[end:]
    return content


def recipe(rng: random.Random) -> bytes:
    """A bundled recipe, damaged."""
    import yaml

    from rlhf_plugins.recipe.check import bundled

    content = rng.choice(sorted(bundled().values())).read_bytes()
    if rng.random() < 0.5:
        return scratched(content, rng)
    values = damaged(yaml.safe_load(content), rng)
    return yaml.safe_dump(values, allow_unicode=True).encode("utf-8", "surrogatepass")


def rows(rng: random.Random) -> tuple[str, str, bytes]:
    """The name of a data format, that of a file, and its content: good rows and one that is damaged."""
    name = rng.choice(sorted(ROWS))
    values: list[Any] = [{**ROWS[name], "prompt": f"p{i}"} for i in range(4)]
    place = rng.randrange(len(values))
    values[place] = damaged(values[place], rng)
    kind = rng.choice(["a.jsonl", "a.json", "a.csv"])
    if kind == "a.csv":
        lines = [
            ",".join(ROWS[name]),
            *(",".join(map(str, row.values() if isinstance(row, dict) else [row])) for row in values),
        ]
        content = "\n".join(lines).encode("utf-8", "surrogatepass")
    elif kind == "a.json":
        content = json.dumps(values).encode()
    else:
        content = b"\n".join(json.dumps(row).encode() for row in values)
    return name, kind, scratched(content, rng) if rng.random() < 0.3 else content


def main(what: str, count: int) -> int:
    """Prints what was found. Returns the exit code."""
    from rlhf_plugins.recipe.check import bundled

    found = Found()
    for bundle in bundled().values() if what == "recipes" else ():
        with suppress(RlhfError):  # some name files that are not here
            check_recipe(bundle)  # so that no import is timed
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for number in range(count):
            rng = random.Random(number)
            if what == "recipes":
                Path("r.yaml").write_bytes(recipe(rng))
                found.judge(number, partial(check_recipe, "r.yaml"))
            else:
                name, file, content = rows(rng)
                Path(file).write_bytes(content)
                found.judge(number, partial(component("data_format", name, source=file).load, Base("nowhere"), 0))
    chosen = random.Random(0).sample(found.messages, min(SHOWN, len(found.messages)))
    print("\n".join(chosen))
    outcomes = ", ".join(f"{n} {outcome}" for outcome, n in found.outcomes.most_common())
    print(f"\n{count} {what}: {outcomes}; the slowest took {found.slowest:.2f} s; {len(found.faults)} faults")
    print("\n".join(found.faults))
    return int(bool(found.faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1_000))
