"""The HTTP side of a reward model: `POST /score`, `GET /health`."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import isfinite
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from rlhf_plugins import RewardUnavailable, RlhfError
from rlhf_serve.batches import Batches

Messages = list[dict[str, Any]]
LARGEST = 8 * 2**20  # bytes of a request
MOST_ROWS = 1024


class Rows(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)
    prompts: Annotated[list[str | Messages], Field(min_length=1, max_length=MOST_ROWS)]
    responses: Annotated[list[str | Messages], Field(min_length=1, max_length=MOST_ROWS)]
    cut: Annotated[list[bool], Field(default_factory=list)]

    @model_validator(mode="after")
    def one_response_to_each_prompt(self) -> Rows:
        """Raises ValueError."""
        if len(self.prompts) != len(self.responses):
            raise ValueError(f"{len(self.responses)} responses for {len(self.prompts)} prompts")
        if self.cut and len(self.cut) != len(self.responses):
            raise ValueError(f"cut: {len(self.cut)} values for {len(self.responses)} responses")
        return self


def app(batches: Batches, name: str, token: str) -> Starlette:
    """The application.

    Args:
        batches: scores rows; closed when the application ends.
        name: the name of the model, which a client may insist on.
        token: the token that every request must bear.
    """

    async def score(request: Request) -> JSONResponse:
        if refused := _refused(request, token):
            return refused
        try:
            rows = Rows.model_validate_json(await _body(request))
            rewards = await asyncio.wrap_future(batches.submit(rows.prompts, rows.responses, rows.cut))
        except ValidationError as error:
            return _error(422, _first(error))
        except OverflowError as error:
            return _error(413, str(error))
        except RewardUnavailable as error:
            return _error(503, str(error), {"retry-after": str(error.retry_after or 1)})
        except RlhfError as error:
            return _error(422, str(error))
        except Exception as error:  # of the model: the client must not take it for a reward
            return _error(500, f"{type(error).__name__}: {error}")
        if wrong := [reward for reward in rewards if reward is not None and not isfinite(reward)]:
            return _error(500, f"the model gave a reward of {wrong[0]}, which is no number")
        return JSONResponse({"model": name, "rewards": rewards})

    async def health(request: Request) -> JSONResponse:
        refused = _refused(request, token)
        return refused or JSONResponse({"model": name, "scored": batches.scored})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batches.close)

    routes = [Route("/score", score, methods=["POST"]), Route("/health", health)]
    return Starlette(routes=routes, lifespan=lifespan)


def _refused(request: Request, token: str) -> JSONResponse | None:
    given = request.headers.get("authorization", "")
    if secrets.compare_digest(given.encode(), f"Bearer {token}".encode()):
        return None
    return _error(401, "a request needs the header `Authorization: Bearer TOKEN`", {"www-authenticate": "Bearer"})


async def _body(request: Request) -> bytes:
    """Raises OverflowError for a body that is too large, before all of it is read."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise OverflowError(f"a request has at most {LARGEST} bytes")
    return bytes(body)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)


def _first(error: ValidationError) -> str:
    found = json.loads(error.json(include_url=False, include_input=False))[0]
    where = ".".join(map(str, found["loc"]))
    return f"{where}: {found['msg']}" if where else str(found["msg"])
