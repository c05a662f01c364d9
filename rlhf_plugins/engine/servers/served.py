"""A model behind a server that speaks the OpenAI protocol: completions, and answers of A or B with a probability."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx2 as httpx

from rlhf_plugins.contract.records import Verdict
from rlhf_plugins.errors import RunError, nearest

BUSY = {408, 409, 425, 429, 500, 502, 503, 504}
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds
LIKELY = 0.5  # the least probability of A and B together that makes an answer of them


@dataclass(frozen=True)
class Server:
    """One model on a server; its key goes into the header of each call and nowhere else."""

    url: str
    model: str
    key: str | None = field(repr=False)
    attempts: int
    timeout: float

    @cached_property
    def client(self) -> httpx.Client:
        """Keeps connections open between calls; threads may share it."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.Client(base_url=self.url.rstrip("/"), headers=headers, timeout=self.timeout)

    def check(self) -> None:
        """Raises RunError when the server does not answer or does not serve the model."""
        try:
            answer = self.client.get("/models")
            answer.raise_for_status()
            names = [str(each["id"]) for each in answer.json()["data"]]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise RunError(f"no model server answers at {self.url}/models: {_reason(error)}") from error
        if self.model not in names:
            raise RunError(f"the server at {self.url} has no model {self.model!r} {nearest(self.model, names)}")

    def ask(self, question: str) -> dict[str, Any] | str:
        """The first choice of a completion of at most four tokens at temperature 0; text says why there is none."""
        asked = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 4}
        return self.complete({**asked, "logprobs": True, "top_logprobs": 5})

    def complete(self, request: Mapping[str, Any]) -> dict[str, Any] | str:
        """The first choice of a completion of the request; text says why there is none."""
        body = {"model": self.model, **request}
        wait, reason = FIRST_WAIT, ""
        for attempt in range(self.attempts):
            try:
                answer = self.client.post("/chat/completions", json=body)
            except httpx.HTTPError as error:
                reason, asked_wait = _reason(error), None
            else:
                if answer.status_code not in BUSY:
                    return _choice(answer)
                reason, asked_wait = f"HTTP {answer.status_code}", _seconds(answer.headers.get("retry-after"))
            if attempt + 1 < self.attempts:
                time.sleep(min(wait if asked_wait is None else asked_wait, LONGEST_WAIT))
                wait *= 2
        return f"unavailable after {self.attempts} calls: {reason}"


def preference(server: Server, question: str) -> Verdict:
    """The probability of answer A: by the first token's log-probabilities where they are given, else A or B as text."""
    choice = server.ask(question)
    if isinstance(choice, str):
        return Verdict(None, "failed", choice)
    likely = _letters(choice)
    if likely is not None:
        return Verdict(likely)
    text = str((choice.get("message") or {}).get("content") or "")
    letter = re.fullmatch(r"\W*([AB])\W*", text)
    if letter is None:
        return Verdict(None, "failed", f"answered {text[:40]!r}, not A or B")
    return Verdict(1.0 if letter[1] == "A" else 0.0)


def _letters(choice: dict[str, Any]) -> float | None:
    """P(A) / (P(A) + P(B)) of the first token; None where neither is listed, or it is more likely something else."""
    try:
        listed = choice["logprobs"]["content"][0]["top_logprobs"]
        found = {"A": 0.0, "B": 0.0}
        for each in listed:
            if (letter := str(each["token"]).strip()) in found:
                found[letter] += math.exp(float(each["logprob"]))
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return None
    total = sum(found.values())
    return found["A"] / total if LIKELY <= total < math.inf else None


def _choice(answer: httpx.Response) -> dict[str, Any] | str:
    if answer.is_error:
        return f"HTTP {answer.status_code}"
    try:
        found = answer.json()["choices"][0]
        return found if isinstance(found, dict) else "an answer that is no completion"
    except (ValueError, KeyError, IndexError, TypeError):
        return "an answer that is no completion"


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
