"""Keeps other sites out: which hosts are answered, the origin and token of each change, the headers of each page."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_FORM = 64_000  # bytes
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """Middleware: refuses unknown hosts and changes asked for by other sites, and adds the headers."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self.app, self.hosts = app, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request: with 403 where it is refused, else as the app does; both get the headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(Request(scope))
        answer = PlainTextResponse(refusal, 403) if refusal else self.app
        await answer(scope, receive, _with_headers(send, scope["path"].startswith("/static/")))

    def _refusal(self, request: Request) -> str:
        host = _parts(f"//{request.headers.get('host', '')}")
        if host is None or host.hostname not in self.hosts:
            return "this address is not served here"
        if request.method not in ("GET", "HEAD"):
            origin = _parts(request.headers.get("origin", ""))
            if origin is None or origin.netloc != request.headers["host"]:
                return "a change has to be asked for by this site's own pages"
        return ""


def _parts(address: str) -> SplitResult | None:
    """None for what is no address, such as `//[`."""
    try:
        return urlsplit(address)
    except ValueError:
        return None


def _with_headers(send: Send, kept: bool) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            more = {**HEADERS, "cache-control": "max-age=3600" if kept else "no-store"}
            message["headers"] += [(name.encode(), value.encode()) for name, value in more.items()]
        await send(message)

    return sending


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form; the last of a name counts. NUL, which PostgreSQL cannot hold, is U+FFFD as in HTML.

    Raises HTTPException: 413 where it is large, 400 for no form.
    """
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise HTTPException(400, "a form was expected")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_FORM:
            raise HTTPException(413, "the form is too large")
    try:
        fields = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=200)
    except ValueError as error:
        raise HTTPException(400, "the form cannot be read") from error
    return {name: value.replace("\0", "\ufffd") for name, value in fields}


def check_token(form: dict[str, str], csrf: str) -> None:
    """Raises HTTPException 403 where the form was not made for this session."""
    if not secrets.compare_digest(form.get("csrf", "").encode(), csrf.encode()):
        raise HTTPException(403, "the form is of another session; load the page again")
