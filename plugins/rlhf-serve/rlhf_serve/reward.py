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
    from rlhf_serve.client import Client


@dataclass(frozen=True)
class Asking:
    """What `Served` builds. Its state is the name of the model: a run that goes on asks no other."""

    client: Client
    model: str
    rows: int
    cut: Callable[[Samples], list[bool]]

    def __call__(self, samples: Samples) -> Sequence[float | None]:
        """Raises RewardUnavailable and RunError as `Client.scored`."""
        rows = {"prompts": samples.prompts, "responses": samples.responses, "cut": self.cut(samples)}
        return list(self.client.scored(rows, self.model, self.rows))

    def state_dict(self) -> dict[str, str]:
        """For a checkpoint."""
        return {"model": self.model}

    def load_state_dict(self, state: dict[str, str]) -> None:
        """Raises RunError where the run asked another model before."""
        if state["model"] != self.model:
            url = self.client.url
            raise RunError(f"the server at {url} now serves {self.model!r}; this run began with {state['model']!r}")


@dataclass(frozen=True)
class Served(Reward):
    """Rewards of `rlhf serve` at an address. While the server is away or busy the run waits, and then stops."""

    url: Annotated[str, Field(pattern="^https?://", description="such as http://127.0.0.1:8100")]
    token: Annotated[str, Field(description="environment variable that holds the server's token")] = "RLHF_SERVE_TOKEN"
    model: Annotated[str | None, Field(description="the model that must be served there; null is any")] = None
    rows: Annotated[int, Field(ge=1, le=1024, description="in a request, at most; a prompt's stay together")] = 64
    timeout: Annotated[float, Field(gt=0, description="seconds for the whole answer to one request")] = 60.0

    def build(self, run: Run) -> Asking:
        """Raises RunError when the token is missing, the server cannot be reached, or it serves another model."""
        from rlhf_plugins import cut_off
        from rlhf_serve.client import Client

        token = os.environ.get(self.token)
        if not token:
            raise RunError(f"reward served: the environment variable {self.token} should hold the server's token")
        client = Client.to(self.url, token, self.timeout)
        model = client.model()
        if self.model is not None and model != self.model:
            raise RunError(f"the server at {self.url} serves {model!r}, not {self.model!r}")
        return Asking(client, model, self.rows, cut_off(run.base))


@hookimpl
def register_reward() -> dict[str, type]:
    """The reward of this file."""
    return {"served": Served}
