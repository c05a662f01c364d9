"""The site: on this machine alone, with a token. It knows routes; what is shown comes from the board."""

from __future__ import annotations

import json
import secrets
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from pydantic_core import PydanticSerializationError, to_json
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from rlhf_watch.page.board import Board

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HERE = Path(__file__).parent
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def site(board: Board, token: str) -> Starlette:
    """The ASGI application. `/?token=...` lets a browser in; everything else needs its cookie.

    The run that is shown first is read from now on, before anybody opens the page.
    """
    board.start()

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
        return _answer(await run_in_threadpool(lambda: [run.summary() for run in board.runs()]))

    async def run(request: Request) -> Response:
        found = board.run(request.query_params.get("name", ""))
        if found is None:
            return _answer({"message": "no such run"}, 404)
        return _answer(await run_in_threadpool(found.shown))

    static = StaticFiles(directory=HERE / "static")
    routes = [Route("/", page), Route("/api/runs", runs), Route("/api/run", run), Mount("/static", static)]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return Starlette(routes=routes, middleware=[hosts, Middleware(Guard, token=token)])


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
                message["headers"] += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
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


def rendered(data: list[dict[str, Any]], live: bool = False) -> str:
    """The page. Runs that come with their curves are shown at once; one that is not live needs no server."""
    style, script = ("" if live else (HERE / "static" / name).read_text("utf-8") for name in ("watch.css", "watch.js"))
    written = _json(data).replace("<", "\\u003c")  # so that no sample can end the element
    parts = {"data": Markup(written), "style": Markup(style), "script": Markup(script)}
    return _template().render(live=live, **parts)


def _answer(data: Any, status: int = 200) -> Response:
    return Response(_json(data), status, media_type="application/json")


def _json(data: Any) -> str:
    try:
        return to_json(data).decode()
    except PydanticSerializationError:  # half a surrogate pair in a text, which the slower one writes
        return json.dumps(data)


@cache
def _template() -> Template:
    loader = FileSystemLoader(HERE / "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("watch.html")


def static_page(board: Board) -> str:
    """The page of all runs as they are now, as one file."""
    runs = board.runs()
    for run in runs:
        run.read_now()
    return rendered([run.shown() for run in runs])
