"""Scores the requests of many clients together, in one thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from rlhf_plugins import RewardUnavailable

# prompts, responses, whether each was cut where it was sampled -> a reward each
Score = Callable[[Sequence[Any], Sequence[Any], Sequence[bool]], list[float | None]]


@dataclass(frozen=True)
class Request:
    """Rows of one client."""

    prompts: Sequence[Any]  # each text or messages
    responses: Sequence[Any]
    cut: Sequence[bool]  # whether each was cut where it was sampled, so that it does not end
    answer: Future[list[float | None]] = field(default_factory=Future)

    @property
    def asked(self) -> set[str]:
        """The prompts, in a form that can be compared."""
        return {repr(prompt) for prompt in self.prompts}


class Batches:
    """A queue of requests and the thread that scores them.

    Requests are scored together, but never two with a prompt in common: an ensemble may compare the responses to a
    prompt, and those of another client do not belong to the comparison.

    Args:
        score: what scores rows; called by one thread only.
        rows: scored together, at most, where no request has more.
        wait: seconds for which the first request of a batch waits for others.
        waiting: requests in the queue, at most.
    """

    def __init__(self, score: Score, rows: int = 64, wait: float = 0.005, waiting: int = 1024) -> None:
        self._score, self._rows, self._wait = score, rows, wait
        self._queue: queue.Queue[Request | None] = queue.Queue(waiting)
        self._held: Request | None = None  # did not fit into the last batch
        self._stopped = threading.Event()
        self.scored = 0  # rows so far
        self._thread = threading.Thread(target=self._work, name="rlhf-serve", daemon=True)
        self._thread.start()

    def submit(
        self, prompts: Sequence[Any], responses: Sequence[Any], cut: Sequence[bool] = ()
    ) -> Future[list[float | None]]:
        """The rewards to come; without `cut` all responses end. Raises RewardUnavailable where it is full or closed."""
        request = Request(prompts, responses, cut or [False] * len(responses))
        if self._stopped.is_set():
            raise RewardUnavailable("the server is stopping")
        try:
            self._queue.put_nowait(request)
        except queue.Full:
            raise RewardUnavailable("the server's queue is full", retry_after=1.0) from None
        if self._stopped.is_set() and request.answer.cancel():  # the thread may have ended before it came
            raise RewardUnavailable("the server is stopping")
        return request.answer

    def close(self) -> None:
        """Answers what waits, and ends the thread."""
        self._stopped.set()
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while batch := self._batch():
            # whoever gave a request up cancelled its answer, which would raise when it is set
            if wanted := [request for request in batch if request.answer.set_running_or_notify_cancel()]:
                self._answer(wanted)

    def _batch(self) -> list[Request]:
        """The next requests, at least one; none where the queue was closed and is empty."""
        first, self._held = self._held or self._queue.get(), None
        if first is None:
            return []
        batch, asked, rows, until = [first], first.asked, len(first.prompts), time.monotonic() + self._wait
        while rows < self._rows:
            try:
                following = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if following is None:
                self._queue.put(None)  # for the call after this one
                break
            if rows + len(following.prompts) > self._rows or asked & following.asked:
                self._held = following
                break
            batch.append(following)
            asked |= following.asked
            rows += len(following.prompts)
        return batch

    def _answer(self, batch: Sequence[Request]) -> None:
        """Scores requests together; where that fails each alone, so that a bad row fails its own request only."""
        try:
            found = self._score(
                [prompt for request in batch for prompt in request.prompts],
                [response for request in batch for response in request.responses],
                [cut for request in batch for cut in request.cut],
            )
        except Exception as error:  # whatever the model or a plugin raises belongs to the request
            if len(batch) > 1:
                for request in batch:
                    self._answer([request])
            else:
                batch[0].answer.set_exception(error)
            return
        self.scored += len(found)
        rewards = iter(found)
        for request in batch:
            request.answer.set_result([next(rewards) for _ in request.prompts])
