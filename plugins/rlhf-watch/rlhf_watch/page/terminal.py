"""The runs as a table in a terminal, drawn again while they are written."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rlhf_watch.page.board import Board, Followed, memory
from rlhf_watch.page.series import Series

NUMBERS = ("reward", "gold_reward", "kl", "entropy", "length")
BARS = "▁▂▃▄▅▆▇█"


def table(runs: Sequence[Followed]) -> Table:
    """One row a run."""
    now = ("steps/s", "s left", "memory")
    found = Table("run", "status", "stage", "step", *now, *NUMBERS, "reward over time", "alarms")
    for run in runs:
        summary = run.summary()
        latest = [run.curve(name).last for name in NUMBERS]
        numbers = [f"{value:.4g}" if math.isfinite(value) else "-" for value in latest]
        pace = ["-" if summary.get(name) is None else f"{summary[name]:.3g}" for name in ("pace", "left")]
        cells = [
            run.name,
            summary["status"],
            summary["stage"],
            str(summary["step"]),
            *pace,
            held(summary),
            *numbers,
            bars(run.curve("reward")),
        ]
        found.add_row(*map(_plain, (*cells, str(len(run.alarms)))))
    return found


def held(summary: Mapping[str, Any]) -> str:
    """The memory of a run's process, and of its GPU."""
    gpu = summary.get("gpu_memory")
    parts = [("", summary.get("memory")), ("GPU ", gpu and gpu["reserved"])]
    return ", ".join(f"{of}{memory(size)}" for of, size in parts if size) or "-"


def bars(curve: Series, width: int = 24) -> str:
    """A curve in one line of text."""
    means = [point[1] for point in curve.points()]
    picked = [means[len(means) * i // width] for i in range(width)] if len(means) > width else means
    low, high = min(picked, default=0.0), max(picked, default=0.0)
    return "".join(BARS[round((value - low) / ((high - low) or 1) * (len(BARS) - 1))] for value in picked)


def follow(board: Board, console: Console, once: bool = False, poll: float = 1.0) -> None:
    """Draws until Ctrl-C; once, when all ended runs are read."""
    runs = _followed(board)
    if once:
        console.print(table(runs))
        return
    with Live(table(runs), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(poll)
            live.update(table(_followed(board)), refresh=True)


def _followed(board: Board, wait: float = 5.0) -> list[Followed]:
    """The runs, those that ended read whole, as far as the wait allows."""
    runs, until = board.runs(), time.monotonic() + wait
    for run in runs:
        run.follow()
    for run in runs:
        while run.summary()["status"] != "running" and not run.whole and time.monotonic() < until:
            time.sleep(0.02)
    return runs


def _plain(text: str) -> Text:
    """Text without what could steer a terminal."""
    return Text("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text))
