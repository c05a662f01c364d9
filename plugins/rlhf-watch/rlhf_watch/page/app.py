"""The site: on this machine alone, with a token. What is shown comes from the board."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from rlhf_watch.page.board import Board
from rlhf_watch.page.written import as_json

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HERE = Path(__file__).parent
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def site(board: Board, token: str) -> Starlette:
    """The ASGI application. `/?token=...` lets a browser in; everything else needs its cookie.

    The run that is shown first is read from the server's start on, before anybody opens the page.
    """

    @asynccontextmanager
    async def begun(_: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(
            lambda: rendered(board.start(), live=True)
        )  # the first page, which loads what pages need
        yield

    async def page(request: Request) -> Response:
        given = request.query_params.get("token")
        if given is None:
            return HTMLResponse(await run_in_threadpool(lambda: rendered(board.start(patience=0.3), live=True)))
        if not secrets.compare_digest(given.encode(), token.encode()):
            return PlainTextResponse("this is not the token of this page", 403)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(cookie_of(token), token, httponly=True, samesite="strict")
        return answer

    async def runs(request: Request) -> Response:
        return _answer(await run_in_threadpool(lambda: as_json([run.summary() for run in board.runs()])))

    async def run(request: Request) -> Response:
        found = board.run(request.query_params.get("name", ""))
        if found is None:
            return _answer(as_json({"message": "no such run"}), 404)
        return _answer(await run_in_threadpool(found.text))

    routes = [Route("/", page), Route("/api/runs", runs), Route("/api/run", run)]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return Starlette(routes=routes, middleware=[hosts, Middleware(Guard, token=token)], lifespan=begun)


def cookie_of(token: str) -> str:
    """The name of a page's cookie: the ports of a host share their cookies, and two pages may not share one."""
    return f"rlhf_watch_{sha256(token.encode()).hexdigest()[:12]}"


class Guard:
    """Middleware: lets nobody in without the token, and adds the headers."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in headers().items()]
            await send(message)

        if scope["type"] == "http" and not self._allowed(Request(scope)):
            refusal = PlainTextResponse("open the address that `rlhf watch` printed, with its token", 403)
            await refusal(scope, receive, sending)
            return
        await self.app(scope, receive, sending)

    def _allowed(self, request: Request) -> bool:
        """With the cookie, or on the way to it."""
        known = secrets.compare_digest(request.cookies.get(cookie_of(self.token), "").encode(), self.token.encode())
        return known or (request.url.path == "/" and "token" in request.query_params)


@cache
def headers() -> dict[str, str]:
    """The headers of every answer. The browser runs the page's own script and style, by their digests, and no other."""
    script, style = (f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'" for text in _parts())
    own = f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'"
    none = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return {"content-security-policy": f"{own}; {none}", **HEADERS}


def rendered(runs: Iterable[str], live: bool = False) -> str:
    """The page of runs, each as JSON. Those that come with their curves are shown at once.

    One that is not live needs no server.
    """
    written = f"[{','.join(runs)}]".replace("<", "\\u003c")  # so that no sample can end the element
    script, style = map(Markup, _parts())
    return _template().render(live=live, data=Markup(written), style=style, script=script)


def _answer(text: str, status: int = 200) -> Response:
    return Response(text, status, media_type="application/json")


@cache
def _parts() -> tuple[str, str]:
    """The script and the style."""
    script, style = ((HERE / "static" / name).read_text("utf-8") for name in ("watch.js", "watch.css"))
    return script, style


@cache
def _template() -> Template:
    loader = FileSystemLoader(HERE / "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("watch.html")


def static_page(board: Board) -> str:
    """The page of all runs as they are now, as one file."""
    runs = board.runs()
    for run in runs:
        run.read_now()
    return rendered(run.text() for run in runs)
