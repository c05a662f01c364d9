"""The reward `served`: asks a reward model on another machine, and never makes a number of a failure."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import httpx2 as httpx
from pydantic import Field

from rlhf_plugins import Reward, RewardUnavailable, RunError, hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rlhf_plugins import Run, Samples

BUSY = {408, 425, 429, 502, 503, 504}


@dataclass(frozen=True)
class Served(Reward):
    """Rewards of `rlhf serve` at an address. While the server is away or busy the run waits, and then stops."""

    url: Annotated[str, Field(pattern="^https?://", description="such as http://127.0.0.1:8100")]
    token: Annotated[str, Field(description="environment variable that holds the server's token")] = "RLHF_SERVE_TOKEN"
    model: Annotated[str | None, Field(description="the model that must be served there; null is any")] = None
    rows: Annotated[int, Field(ge=1, le=1024, description="in a request, at most; a prompt's stay together")] = 64
    timeout: Annotated[float, Field(gt=0, description="seconds for one request")] = 60.0

    def build(self, run: Run) -> Callable[[Samples], Sequence[float | None]]:
        """Raises RunError when the token is missing, the server cannot be reached, or it serves another model."""
        from rlhf_plugins import cut_off

        client = self._client()
        try:
            answer = client.get("/health")
        except httpx.HTTPError as error:
            raise RunError(f"no reward server answers at {self.url}: {_reason(error)}") from error
        found, cut = _json(answer, self.url).get("model"), cut_off(run.base)
        if self.model is not None and found != self.model:
            raise RunError(f"the server at {self.url} serves {found!r}, not {self.model!r}")

        def score(samples: Samples) -> list[float | None]:
            rows: dict[str, list[Any]] = {
                "prompts": list(samples.prompts),
                "responses": list(samples.responses),
                "cut": cut(samples),
            }
            requests = _requests(samples.prompts, self.rows)
            asked = [{name: values[places] for name, values in rows.items()} for places in requests]
            return [reward for body in asked for reward in self._asked(client, body, str(found))]

        return score

    def _asked(self, client: httpx.Client, body: Mapping[str, list[Any]], model: str) -> list[float | None]:
        try:
            answer = client.post("/score", json=body)
        except httpx.HTTPError as error:
            raise RewardUnavailable(f"the reward server at {self.url}: {_reason(error)}") from error
        if answer.status_code in BUSY:
            raise RewardUnavailable(f"the reward server at {self.url}: HTTP {answer.status_code}", _seconds(answer))
        found = _json(answer, self.url)
        if found.get("model") != model:
            raise RunError(f"the server at {self.url} now serves {found.get('model')!r}, not {model!r}")
        return _rewards(found.get("rewards"), len(body["prompts"]), self.url)

    def _client(self) -> httpx.Client:
        token = os.environ.get(self.token)
        if not token:
            raise RunError(f"reward served: the environment variable {self.token} should hold the server's token")
        return httpx.Client(
            base_url=self.url.rstrip("/"), headers={"Authorization": f"Bearer {token}"}, timeout=self.timeout
        )


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
    except ValueError:
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
        number = isinstance(reward, int | float) and not isinstance(reward, bool) and math.isfinite(reward)
        if reward is not None and not number:
            raise RunError(f"the reward server at {url} answered the reward {str(reward)[:40]!r}")
    return [None if reward is None else float(reward) for reward in rewards]


def _seconds(answer: httpx.Response) -> float | None:
    try:
        return float(answer.headers["retry-after"])
    except (KeyError, ValueError):
        return None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


@hookimpl
def register_reward() -> dict[str, type]:
    """The reward of this file."""
    return {"served": Served}
