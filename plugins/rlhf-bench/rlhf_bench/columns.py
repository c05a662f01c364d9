"""The columns of a suite's tables: what its algorithms reach, and what they cost. It knows lines, no run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rlhf_bench.markup import Table, number, shown
from rlhf_bench.suite import Suite
from rlhf_bench.table import TASK, Line

Column = tuple[str, Callable[[Line], str]]
WHO: list[Column] = [("task", lambda line: line.task), ("algorithm", lambda line: line.algorithm)]


def mean(title: str, key: str, form: str = ".2f", unit: float = 1.0) -> Column:
    """The mean over seeds of one measure, in another unit."""

    def cell(line: Line) -> str:
        value = line.means.get(key)
        return number(value if value is None else value / unit, form)

    return title, cell


def quality(suite: Suite, found: Sequence[Line]) -> Iterator[Column]:
    """What is reached; ratings and other tasks of the evaluation only where a line has any."""
    yield from WHO
    yield "seeds", lambda line: str(len(line.seeds))
    yield "gold reward", lambda line: shown(line.gold)
    yield f"gain over {suite.baseline}", lambda line: shown(line.gain, sign="+")
    yield "p (Holm)", lambda line: number(line.p, ".3f")
    yield f"wins over {suite.baseline}", lambda line: shown(line.wins)
    yield "sd over seeds", lambda line: number(line.spread, ".2f")
    yield from (mean("KL", "kl"), mean("out of distribution", "out_of_distribution"), mean("length", "length", ".1f"))
    yield from (mean("distinct-2", "distinct_2"), mean("perplexity", "perplexity"))
    if any(line.rating for line in found):
        yield "human rating", lambda line: shown(line.rating)
    for key in dict.fromkeys(key for line in found for key in line.means if key.startswith(TASK)):
        yield mean(key.removeprefix(TASK), key)


COST: list[Column] = [
    *WHO,
    mean("seconds", "seconds", ".0f"),
    mean("TFLOPs", "flops", ".2f", 1e12),
    mean("budget used", "spent", ".0%"),
    mean("GiB", "peak_bytes", ".2f", 2**30),
    mean("tokens/s", "tokens_per_second", ".0f"),
    mean("responses rewarded", "reward_calls", ".0f"),
    mean("90% at step", "converged_step", ".0f"),
    mean("90% after seconds", "converged_seconds", ".0f"),
]


def of_lines(title: str, about: str, columns: Sequence[Column], lines: Sequence[Line]) -> Table:
    """A row per line."""
    return Table(title, about, [name for name, _ in columns], [[cell(line) for _, cell in columns] for line in lines])
