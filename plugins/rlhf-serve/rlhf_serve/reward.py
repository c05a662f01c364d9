"""The reward `served`: a reward model on another machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rlhf_plugins import Reward, RunError, hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rlhf_plugins import Run, Samples


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
        from rlhf_serve.client import Client

        token = os.environ.get(self.token)
        if not token:
            raise RunError(f"reward served: the environment variable {self.token} should hold the server's token")
        client = Client.to(self.url, token, self.timeout)
        model, cut = client.model(), cut_off(run.base)
        if self.model is not None and model != self.model:
            raise RunError(f"the server at {self.url} serves {model!r}, not {self.model!r}")

        def score(samples: Samples) -> list[float | None]:
            rows = {"prompts": samples.prompts, "responses": samples.responses, "cut": cut(samples)}
            return list(client.scored(rows, model, self.rows))

        return score


@hookimpl
def register_reward() -> dict[str, type]:
    """The reward of this file."""
    return {"served": Served}
