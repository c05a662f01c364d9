"""People at their pages over HTTP: each judges an item and sends again what was not acknowledged."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from random import Random
from time import perf_counter, sleep
from urllib.parse import urlencode

AGAIN = 0.1  # share of items that are loaded once more before they are judged
HIDDEN = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')


@dataclass
class Client:
    """One person with the cookie of a session. `acknowledged` maps the key of a submission to its choice."""

    port: int
    cookie: str
    random: Random
    acknowledged: dict[str, int] = field(default_factory=dict)
    pages: list[float] = field(default_factory=list)  # seconds
    submits: list[float] = field(default_factory=list)
    finished: bool = False
    _pending: dict[str, str] | None = None
    _page: str = ""
    _connection: HTTPConnection | None = None

    def work(self, until: Callable[[], bool], think: float = 0.0) -> None:
        """Judges items, each after a while of about `think` seconds, until it is time to end or nothing is left."""
        while not until() and not self.finished:
            try:
                self._step(think)
            except (OSError, HTTPException):
                self._connection = None
                sleep(0.01)

    def _step(self, think: float) -> None:
        if self._pending is None:
            if 'id="judge"' not in self._page or self.random.random() < AGAIN:
                self._page = self._timed("GET", "/", "", self.pages)
            if 'id="judge"' not in self._page:
                self.finished = True
                return
            if think:
                sleep(self.random.uniform(0.5, 1.5) * think)
            form = dict(HIDDEN.findall(self._page.partition('id="judge"')[2]))
            choice = 0 if "known" in self._page else self.random.randint(-5, 5)  # known answers are ties
            self._pending = {**form, "choice": str(choice)}
        self._page = self._timed("POST", "/judge", urlencode(self._pending), self.submits)
        self.acknowledged[self._pending["key"]] = int(self._pending["choice"])
        self._pending = None

    def _timed(self, method: str, path: str, body: str, times: list[float]) -> str:
        """The body of a good answer. Raises HTTPException for another one, so that the request is made again."""
        if self._connection is None:
            self._connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        headers = {"cookie": self.cookie, "origin": f"http://127.0.0.1:{self.port}", "x-part": "1"}
        headers["content-type"] = "application/x-www-form-urlencoded"
        start = perf_counter()
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        text = answer.read().decode()
        times.append(perf_counter() - start)
        if answer.status != 200:
            raise HTTPException(f"{answer.status}: {text[:200]}")
        return text
