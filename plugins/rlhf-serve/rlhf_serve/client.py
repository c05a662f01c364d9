"""Asks a reward server over HTTP, and never makes a number of a failure."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx2 as httpx

from rlhf_plugins import RewardUnavailable, RunError

BUSY = {408, 425, 429, 502, 503, 504}


@dataclass(frozen=True)
class Client:
    """Asks `rlhf serve`; a process that was forked from another has connections and a loop of its own."""

    url: str
    connect: Callable[[], httpx.AsyncClient]
    timeout: float  # seconds from the beginning of a request to the end of its answer
    _open: dict[int, httpx.AsyncClient] = field(default_factory=dict, init=False, repr=False)  # process id -> client

    @classmethod
    def to(cls, url: str, token: str, timeout: float) -> Client:
        """One to an address, with the token that the server printed, and the seconds that a request may take."""
        headers = {"Authorization": f"Bearer {token}"}
        return cls(url, lambda: httpx.AsyncClient(base_url=url.rstrip("/"), headers=headers, timeout=None), timeout)

    def model(self) -> str:
        """What is served. Raises RunError where no server answers."""
        try:
            answer = self._answer("GET", "/health")
        except httpx.HTTPError as error:
            raise RunError(f"no reward server answers at {self.url}: {_reason(error)}") from error
        return str(_json(answer, self.url).get("model"))

    def scored(self, rows: Mapping[str, Sequence[Any]], model: str, at_once: int) -> Iterator[float | None]:
        """A reward for each row, None where the model abstains.

        Args:
            rows: the server's fields, `prompts` among them, each of the same length.
            model: the model that the server should serve.
            at_once: rows in a request, at most; a prompt's stay together.

        Raises:
            RewardUnavailable: the server is away, slow or busy.
            RunError: it fails otherwise, answers what are no rewards, or serves another model.
        """
        for places in _requests(rows["prompts"], at_once):
            yield from self._asked({name: values[places] for name, values in rows.items()}, model)

    def _asked(self, body: Mapping[str, Sequence[Any]], model: str) -> list[float | None]:
        try:
            answer = self._answer("POST", "/score", body)
        except httpx.HTTPError as error:
            raise RewardUnavailable(f"the reward server at {self.url}: {_reason(error)}") from error
        if answer.status_code in BUSY:
            raise RewardUnavailable(f"the reward server at {self.url}: HTTP {answer.status_code}", _seconds(answer))
        found = _json(answer, self.url)
        if found.get("model") != model:
            raise RunError(f"the server at {self.url} now serves {found.get('model')!r}, not {model!r}")
        return _rewards(found.get("rewards"), len(body["prompts"]), self.url)

    def _answer(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Raises HTTPError where the whole answer is not there in time; httpx itself counts each read alone."""
        process = os.getpid()
        if process not in self._open:
            self._open[process] = self.connect()
        answer = self._in_time(self._open[process], method, path, body)
        return asyncio.run_coroutine_threadsafe(answer, _loop(process)).result()

    async def _in_time(self, http: httpx.AsyncClient, method: str, path: str, body: Any) -> httpx.Response:
        try:
            async with asyncio.timeout(self.timeout):
                return await http.request(method, path, json=body)
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"the answer was not whole after {self.timeout:g} s") from error


@cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """One in a thread of its own, which no fork takes along: a notebook has one running already."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="rlhf-served", daemon=True).start()
    return loop


def _requests(prompts: Sequence[Any], rows: int) -> Iterator[slice]:
    """At most `rows` rows each, cut where the prompt changes: a model may compare the responses to one prompt.

    Only a prompt with more than `rows` responses is cut itself.
    """
    start, changes = 0, [n for n in range(1, len(prompts)) if prompts[n] != prompts[n - 1]]
    while start < len(prompts):
        end = min(start + rows, len(prompts))
        if end < len(prompts):
            end = max((n for n in changes if start < n <= end), default=end)
        yield slice(start, end)
        start = end


def _json(answer: httpx.Response, url: str) -> dict[str, Any]:
    """Raises RunError for an error of the server's, and for what is no JSON object."""
    try:
        found = answer.json()
    except (ValueError, RecursionError):
        found = None
    if answer.is_error:
        said = found.get("error") if isinstance(found, dict) else None
        raise RunError(f"the reward server at {url}: HTTP {answer.status_code}{f', {said}' if said else ''}")
    if not isinstance(found, dict):
        raise RunError(f"the reward server at {url} answered what is no JSON object")
    return found


def _rewards(rewards: Any, count: int, url: str) -> list[float | None]:
    """Raises RunError where they are not `count` finite numbers, or null where the model abstains."""
    if not isinstance(rewards, list) or len(rewards) != count:
        raise RunError(f"the reward server at {url} did not answer {count} rewards")
    for reward in rewards:
        if reward is not None and not _is_finite(reward):
            raise RunError(f"the reward server at {url} answered the reward {str(reward)[:40]!r}")
    return [None if reward is None else float(reward) for reward in rewards]


def _is_finite(reward: Any) -> bool:
    try:
        return isinstance(reward, int | float) and not isinstance(reward, bool) and math.isfinite(reward)
    except OverflowError:  # an integer that no float holds
        return False


def _seconds(answer: httpx.Response) -> float | None:
    try:
        return float(answer.headers["retry-after"])
    except (KeyError, ValueError):
        return None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
