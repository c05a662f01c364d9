"""Sends the alarms that the runs of a folder raise while somebody watches them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_plugins import RlhfError
from rlhf_watch.notices.address import Address, Notice
from rlhf_watch.notices.sending import send
from rlhf_watch.page.board import Board, Followed

logger = logging.getLogger(__name__)
Row = Mapping[str, Any]


class News:
    """The alarms of a folder's runs since it was made."""

    def __init__(self, folder: Path) -> None:
        self._board = Board(folder)
        self._seen: set[Notice] = set()
        self._ended: set[str] = set()
        self._logged: set[str] = set()
        self.notices()

    def notices(self) -> list[Notice]:
        """The alarms since the last call; a run that cannot be read is logged once, and holds up no other."""
        found: list[Notice] = []
        for run in self._board.runs():
            try:
                found += self._of(run)
            except RlhfError:  # being written, or deleted
                continue
            except Exception as error:  # whatever it is, the alarms of the other runs are sent
                self._log(f"the alarms of {run.name} are not read", error)
        return found

    def _of(self, run: Followed) -> list[Notice]:
        running = run.record.status == "running"  # before its alarms are read, so that none is missed
        if not running and run.name in self._ended:
            return []
        found = dict.fromkeys(notice_of(run.name, row) for row in run.record.alarms())
        new = [notice for notice in found if notice not in self._seen]
        self._seen |= {*new}
        (self._ended.discard if running else self._ended.add)(run.name)
        return new

    def send(self, address: Address, poll: float = 2.0) -> None:
        """Sends them, for as long as the process lives; an unexpected error is a line of the log, once."""
        while True:
            try:
                for notice in self.notices():
                    send(address, notice)
            except Exception as error:
                self._log("alarms are not sent, and are tried again", error)
            time.sleep(poll)

    def _log(self, what: str, error: Exception) -> None:
        line = f"{what}: {type(error).__name__}: {error}"
        if line not in self._logged:
            logger.warning("%s", line)
        self._logged.add(line)


def notice_of(run: str, row: Row) -> Notice:
    """A row of `alarms.jsonl` as it is sent."""
    names = ("stage", "step", "monitor", "message", "action", "false_alarm_rate")
    values: dict[str, Any] = {name: None if (value := row.get(name)) != value else value for name in names}
    return Notice(run, **values)
