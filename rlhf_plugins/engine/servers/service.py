"""The options of a model behind a server, which judges and generators share. Calling it is `served`'s."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from rlhf_plugins.engine.servers.served import Server


@dataclass(frozen=True)
class Service:
    """One model on a server, and how it is called."""

    url: Annotated[str, Field(pattern="^https?://", description="such as http://127.0.0.1:8000/v1")]
    model: Annotated[str, Field(min_length=1, description="its name on the server")]
    key: Annotated[str | None, Field(description="environment variable that holds the API key; null sends none")] = None
    attempts: Annotated[int, Field(ge=1, description="calls for one answer, where the server is busy")] = 4
    timeout: Annotated[float, Field(gt=0, description="seconds for one call")] = 60.0
    parallel: Annotated[int, Field(ge=1, description="calls at once")] = 8

    def reached(self, who: str) -> Server:
        """The server. Raises RunError when the key is missing, it does not answer, or it has no such model."""
        from rlhf_plugins.engine.servers.served import Server

        key = None if self.key is None else os.environ.get(self.key)
        if self.key is not None and not key:
            raise RunError(f"{who}: the environment variable {self.key} is not set; it should hold the API key")
        server = Server(self.url, self.model, key, self.attempts, self.timeout)
        server.check()
        return server
