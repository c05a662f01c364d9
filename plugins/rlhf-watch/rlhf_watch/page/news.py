"""Sends the alarms that the runs of a folder raise while somebody watches them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_plugins import RlhfError
from rlhf_watch.notices.address import Address, Notice
from rlhf_watch.notices.sending import send
from rlhf_watch.page.board import Board

Row = Mapping[str, Any]


class News:
    """The alarms of a folder's runs since it was made."""

    def __init__(self, folder: Path) -> None:
        self._board = Board(folder)
        self._seen: set[Notice] = set()
        self._ended: set[str] = set()
        self.notices()

    def notices(self) -> list[Notice]:
        """Those since the last call."""
        found: list[Notice] = []
        for run in self._board.runs():
            try:
                running = run.record.status == "running"  # before its alarms are read, so that none is missed
                if running or run.name not in self._ended:
                    found += [notice_of(run.name, row) for row in run.record.alarms()]
            except RlhfError:  # being written, or deleted
                continue
            (self._ended.discard if running else self._ended.add)(run.name)
        new = [notice for notice in dict.fromkeys(found) if notice not in self._seen]
        self._seen |= {*new}
        return new

    def send(self, address: Address, poll: float = 2.0) -> None:
        """Sends them, for as long as the process lives."""
        while True:
            for notice in self.notices():
                send(address, notice)
            time.sleep(poll)


def notice_of(run: str, row: Row) -> Notice:
    """A row of `alarms.jsonl` as it is sent."""
    names = ("stage", "step", "monitor", "message", "action", "false_alarm_rate")
    values: dict[str, Any] = {name: None if (value := row.get(name)) != value else value for name in names}
    return Notice(run, **values)
