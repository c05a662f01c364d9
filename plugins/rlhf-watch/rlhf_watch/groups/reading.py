"""Reads pairs with their rewards, as `rlhf score` writes them, and says what was found by group and by cluster."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

from rlhf_plugins import DataError
from rlhf_watch.groups.failures import BY, Row, clustered, to_collect, worst
from rlhf_watch.groups.fairness import Groups, by_group, wins
from rlhf_watch.rows import parsed
from rlhf_watch.shift.units import conversation


def read(file: Path) -> list[Row]:
    """Rows with `rewards` of two responses, the chosen one first. Raises DataError where one has none."""
    return list(parsed(file, _pair, "a row needs `rewards`, as `rlhf score` writes them"))


def _pair(row: Row) -> Row:
    rewards = row["rewards"]
    if len(rewards) != 2 or not all(math.isfinite(reward) for reward in rewards):
        raise DataError(f"`rewards` should be two finite numbers, got {rewards}")
    return row


def group_lines(file: Path, column: str) -> Iterator[str]:
    """Accuracy and reward by group. Raises DataError where no row has the column."""
    rows = read(file)
    known = [row for row in rows if row.get(column) is not None]
    if not known:
        names = sorted({name for row in rows for name in row})
        raise DataError(f"{file}: no row has a column {column!r} (known: {', '.join(names)})")
    accuracy = accuracies(known, column)
    yield from table("accuracy", accuracy, "prompts")
    units = by_prompt(known, column)
    chosen = by_group([group for group, _ in units], [fmean(row["rewards"][0] for row in rows) for _, rows in units])
    yield from table("reward of the chosen response", chosen, "prompts")
    yield worse(accuracy)
    if left := len(rows) - len(known):
        yield f"left out: {left} rows without {column!r}"


def accuracies(rows: Sequence[Row], column: str) -> Groups:
    """The accuracy of each group. Raises DataError for fewer than two."""
    units = by_prompt(rows, column)
    return by_group([group for group, _ in units], [fmean(wins([row["rewards"] for row in of])) for _, of in units])


def worse(accuracy: Groups) -> str:
    """Whether a group is judged worse than the others."""
    behind = accuracy.behind
    if accuracy.p <= 0.05:
        return f"{behind.name} is judged worse than the others, by {-behind.gap:.1%} (p {accuracy.p:.2g})"
    return f"no group is shown to be judged worse; the furthest behind is {behind.name} (p {accuracy.p:.2g})"


def by_prompt(rows: Sequence[Row], column: str) -> list[tuple[str, list[Row]]]:
    """The group and the rows of each prompt or conversation in a group; a row without a prompt is alone."""
    found: dict[Hashable, list[Row]] = {}
    for number, row in enumerate(rows):
        its = number if row.get("prompt") is None else conversation(row["prompt"])
        found.setdefault((str(row[column]), its), []).append(row)
    return [(str(of_one[0][column]), of_one) for of_one in found.values()]


def table(title: str, found: Groups, counted: str) -> Iterator[str]:
    """A line for each group, the worst first."""
    yield f"{title}:"
    total = sum(one.rows for one in found.groups)
    for one in found.groups:
        low, high = one.interval
        within = f"[{low:.3f}, {high:.3f}]" if low == low else "(no interval)"
        share = f"{one.rows} {counted} ({one.rows / total:.1%})"
        yield f"  {one.name}: {one.mean:.3f} {within}, {one.gap:+.3f} to the others, {share}"


NONE = {
    "gap": "every chosen response has the larger reward",
    "disagreement": "the members agree on every pair",
    "length": "no longer response has the larger reward",
}


def failure_lines(file: Path, count: int, clusters: int, out: Path | None, by: str = "gap") -> Iterator[str]:
    """The worst rows by cluster; `out` is written for people to judge them again."""
    bad = worst(read(file), count, by)
    if not bad:
        yield f"{file}: {NONE[by]}"
        return
    for cluster in clustered(bad, clusters, by):
        marks = f", marked by {', '.join(cluster.words)}" if cluster.words else ""
        yield f"{len(cluster.rows)} rows{marks}; the worst has {by} {BY[by](cluster.rows[0]):.3g}:"
        yield f"  {_short(cluster.rows[0])}"
    if out is not None:
        _write(out, bad, by)
        yield f"{out}: {len(bad)} rows, for `rlhf collect new STUDY --prompts {out}`"


def _short(row: Row) -> str:
    texts = {name: " ".join(str(row.get(name, "")).split()) for name in ("prompt", "chosen", "rejected")}
    return " | ".join(f"{name}: {text:.80}" for name, text in texts.items())


def _write(out: Path, rows: Sequence[Row], by: str) -> None:
    if missing := [name for name in ("prompt", "chosen", "rejected") for row in rows if name not in row]:
        raise DataError(f"rows have no {missing[0]!r}, which people judge by")
    out.write_text("".join(json.dumps(to_collect(row, by)) + "\n" for row in rows), encoding="utf-8")
