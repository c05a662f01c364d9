"""The columns of a suite's tables: what its algorithms reach, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rlhf_bench.judges import GOLD, WINS
from rlhf_bench.markup import Table, number, shown
from rlhf_bench.suite import Suite
from rlhf_bench.table import TASK, Line

APART = 0.02  # a share of the budget; a step of a training spends about 0.01 of it
Column = tuple[str, Callable[[Line], str]]
WHO: list[Column] = [("task", lambda line: line.task), ("algorithm", lambda line: line.algorithm)]


def mean(title: str, key: str, form: str = ".2f", unit: float = 1.0) -> Column:
    """The mean over seeds of one measure, in another unit."""

    def cell(line: Line) -> str:
        value = line.means.get(key)
        return number(value if value is None else value / unit, form)

    return title, cell


def spent(line: Line) -> str:
    """The part of the budget that was used, from the least to the most of the seeds where these are apart."""
    least, most = (line.means.get(key) for key in ("least_spent", "most_spent"))
    apart = least is not None and most is not None and most - least > APART
    return f"{least:.0%} to {most:.0%}" if apart else number(line.means.get("spent"), ".0%")


def of_all(title: str, key: str) -> Column:
    """A mean over all seeds, or how many of them have one."""

    def cell(line: Line) -> str:
        value = line.means.get(key)
        return f"{line.means['converged_seeds']:.0f} of {len(line.seeds)}" if value is None else f"{value:.0f}"

    return title, cell


def quality(suite: Suite, found: Sequence[Line], score: str = GOLD) -> Iterator[Column]:
    """What is reached; ratings and other tasks of the evaluation only where a line has any.

    Args:
        score: what the judge's scores are called.
    """
    yield from WHO
    yield "seeds", lambda line: str(len(line.seeds))
    yield score, lambda line: shown(line.gold)
    yield f"gain over {suite.baseline}", lambda line: shown(line.gain, sign="+")
    yield "p (Holm)", lambda line: number(line.p, ".3f")
    yield f"wins over {suite.baseline}", lambda line: shown(line.wins)
    yield "sd over seeds", lambda line: number(line.spread, ".2f")
    yield from (mean("KL", "kl"), mean("out of distribution", "out_of_distribution"), mean("length", "length", ".1f"))
    yield from (mean("distinct-2", "distinct_2"), mean("perplexity", "perplexity"))
    if any(line.rating for line in found):
        yield "human rating", lambda line: shown(line.rating)
    for key in dict.fromkeys(key for line in found for key in line.means if key.startswith(TASK)):
        if key == TASK + WINS:
            yield from (mean("wins over base by its own reward", key), mean("by the judge", "win_rate"))
        else:
            yield mean(key.removeprefix(TASK), key)


COST: list[Column] = [
    *WHO,
    mean("seconds", "seconds", ".0f"),
    mean("TFLOPs", "flops", ".2f", 1e12),
    ("budget used", spent),
    mean("GiB", "peak_bytes", ".2f", 2**30),
    mean("tokens/s", "tokens_per_second", ".0f"),
    mean("responses rewarded", "reward_calls", ".0f"),
    of_all("90% at step", "converged_step"),
    of_all("90% after seconds", "converged_seconds"),
]


def of_lines(title: str, about: str, columns: Sequence[Column], lines: Sequence[Line]) -> Table:
    """A row per line."""
    return Table(title, about, [name for name, _ in columns], [[cell(line) for _, cell in columns] for line in lines])
