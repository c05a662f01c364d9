"""The assistant `server`: a model behind an address that speaks the OpenAI protocol, such as vLLM or llama.cpp."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import httpx2 as httpx
from pydantic import Field

from rlhf_constitution.assistant import Asked, Assistant, Chosen, Written
from rlhf_constitution.ledger import OVER, Budget, Ledger
from rlhf_constitution.outcome import Failed
from rlhf_plugins import Run, RunError, hookimpl

BUSY = {408, 409, 425, 429, 500, 502, 503, 504}
PROBE = 10.0  # seconds in which a server has to name its models
FIRST = re.compile(r"\W*(\w+)[ \t]*(?![ \t\w])")  # a word that no other follows: "A clear case" is no answer A
LIKELY = 0.5  # the least probability of all choices together that makes an answer of them


@dataclass(frozen=True)
class ByServer(Assistant):
    """Choices by the log-probabilities of the first token where they are given, else by an answer of one word."""

    url: Annotated[str, Field(pattern="^https?://", description="such as http://127.0.0.1:8000/v1")]
    model: Annotated[str, Field(min_length=1, description="its name on the server")]
    key: Annotated[str | None, Field(description="environment variable that holds the API key; null sends none")] = None
    temperature: Annotated[float, Field(ge=0, description="of written answers")] = 0.7
    attempts: Annotated[int, Field(ge=1, description="calls for one answer, where the server is busy")] = 3
    wait: Annotated[
        float, Field(ge=0, description="seconds before the second call; twice as long before each next")
    ] = 0.5
    timeout: Annotated[float, Field(gt=0, description="seconds for one call")] = 60.0
    parallel: Annotated[int, Field(ge=1, description="calls at once")] = 8

    def build(self, run: Run, ledger: Ledger) -> Asked:
        """Raises RunError when the key is missing, the server does not answer, or it has no such model."""
        if found := self.missing():
            raise RunError(f"assistant server: {next(iter(found.values()))}")
        return _Server(self, self.secret, ledger)

    @property
    def secret(self) -> str:
        """The API key; empty where none is sent, or it is not set."""
        return os.environ.get(self.key, "") if self.key else ""

    def missing(self) -> dict[str, str]:
        """A key that is not set, a server that does not answer, or a model that it does not serve."""
        if self.key and not self.secret:
            return {"key": f"the environment variable {self.key} is not set"}
        try:
            names = _Server(self, self.secret, Ledger(Budget())).models()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            return {"url": f"nothing answers at {self.url}: {type(error).__name__}: {error}"}
        if self.model not in names:
            return {"model": f"{self.url} has no model {self.model!r} (it has {', '.join(names)})"}
        return {}


@dataclass(frozen=True)
class _Server:
    options: ByServer
    secret: str
    ledger: Ledger

    @cached_property
    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.secret}"} if self.secret else {}
        return httpx.Client(base_url=self.options.url.rstrip("/"), headers=headers, timeout=self.options.timeout)

    def models(self) -> list[str]:
        """The models that it serves."""
        answer = self.client.get("/models", timeout=min(self.options.timeout, PROBE))
        return [str(each["id"]) for each in answer.raise_for_status().json()["data"]]

    def choose(self, questions: Sequence[str], choices: Sequence[str]) -> list[Chosen]:
        """See `Asked`."""
        asked = {"temperature": 0, "max_tokens": 2, "logprobs": True, "top_logprobs": 10}
        return [chosen(answer, choices) for answer in self._all(questions, asked)]

    def write(self, questions: Sequence[str], seed: int) -> list[Written]:
        """See `Asked`."""
        most, temperature = self.options.max_new_tokens, self.options.temperature
        found = self._all(questions, {"temperature": temperature, "max_tokens": most, "seed": seed})
        return [answer if isinstance(answer, Failed) else words(answer) for answer in found]

    def _all(self, questions: Sequence[str], asked: Mapping[str, Any]) -> list[dict[str, Any] | Failed]:
        with ThreadPoolExecutor(self.options.parallel) as pool:
            return list(pool.map(lambda text: self._one(text, asked), questions))

    def _one(self, text: str, asked: Mapping[str, Any]) -> dict[str, Any] | Failed:
        body = {"model": self.options.model, "messages": [{"role": "user", "content": text}], **asked}
        reason, tokens = "", len(text.encode()) + asked["max_tokens"]
        for attempt in range(self.options.attempts):
            if attempt:
                time.sleep(min(self.options.wait * 2 ** (attempt - 1), 30.0, self.ledger.left()))
            if (attempt and not self.ledger.reserve(tokens)) or not (left := self.ledger.left()):
                return OVER
            try:
                answer = self.client.post("/chat/completions", json=body, timeout=min(self.options.timeout, left))
            except httpx.HTTPError as error:
                reason = type(error).__name__
                continue
            if answer.status_code not in BUSY:
                return completion(answer)
            reason = f"HTTP {answer.status_code}"
        return Failed(f"unavailable: {reason}")


def completion(answer: httpx.Response) -> dict[str, Any] | Failed:
    """The first choice of an answer."""
    try:
        found = answer.raise_for_status().json()["choices"][0]
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError):
        return Failed(f"no completion: HTTP {answer.status_code}")
    return found if isinstance(found, dict) else Failed("no completion")


def words(completion: Mapping[str, Any]) -> Written:
    """The text of a completion; Failed where there is none, or a content filter stopped it."""
    if completion.get("finish_reason") == "content_filter":
        return Failed("stopped by a content filter")
    message = completion.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    return text if isinstance(text, str) and text.strip() else Failed("an empty answer")


def chosen(answer: Mapping[str, Any] | Failed, choices: Sequence[str]) -> Chosen:
    """The probabilities of the choices; Failed where the answer is none of them."""
    if isinstance(answer, Failed):
        return answer
    if found := likely(answer, choices):
        return found
    text = words(answer)
    if isinstance(text, Failed):
        return text
    first = FIRST.match(text)
    if first is None or first[1] not in choices:
        return Failed(f"answered {text[:40]!r}, none of {', '.join(choices)}")
    return tuple(float(choice == first[1]) for choice in choices)


def likely(answer: Mapping[str, Any], choices: Sequence[str]) -> tuple[float, ...] | None:
    """By the log-probabilities of the first token; None where it is more likely no choice, or they are not given."""
    found = dict.fromkeys(choices, 0.0)
    try:
        for each in answer["logprobs"]["content"][0]["top_logprobs"]:
            if (token := str(each["token"]).strip()) in found:
                found[token] += math.exp(min(float(each["logprob"]), 0.0))  # NaN stays so, and no choice is likely
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    total = sum(found.values())
    return tuple(value / total for value in found.values()) if LIKELY <= total < math.inf else None


@hookimpl
def register_components() -> dict[str, dict[str, type]]:
    """The assistant of this file."""
    return {"assistant": {"server": ByServer}}
