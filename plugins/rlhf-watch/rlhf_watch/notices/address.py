"""Where notices of alarms go: a POST of JSON, or a mail. An address holds secrets: only its host is ever shown."""

from __future__ import annotations

import json
import os
import re
import smtplib
import ssl
from dataclasses import asdict, dataclass, field
from email.message import EmailMessage
from http.client import HTTPMessage
from typing import IO, Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from rlhf_plugins import RunError

VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
SHAPES = "https://HOST/PATH, http://HOST/PATH, smtps://USER:PASSWORD@HOST?to=ME@HOST or smtp://HOST?to=ME@HOST"
PATIENCE = 5.0  # seconds until a server is given up


@dataclass(frozen=True)
class Notice:
    """An alarm as it is sent: without samples, which may not leave the machine."""

    run: str
    stage: str
    step: int
    monitor: str
    message: str
    action: str | None
    false_alarm_rate: float | None

    @property
    def text(self) -> str:
        """One line."""
        return " ".join(f"{self.run}, {self.stage} step {self.step}, {self.monitor}: {self.message}".split())


@dataclass(frozen=True)
class Address:
    """A webhook or a mailbox.

    Args:
        parts: the parts of its URL.
    """

    parts: SplitResult = field(repr=False)

    @classmethod
    def read(cls, given: str) -> Address:
        """An address, or the one that the environment variable of this name holds.

        Raises:
            RunError: the variable is not set, or the address has another shape; no part of it is in the message.
        """
        name = f"the environment variable {given}" if VARIABLE.fullmatch(given) else "the address"
        text = os.environ.get(given, "") if VARIABLE.fullmatch(given) else given
        if not text:
            raise RunError(f"notify: {name} is not set; it should hold {SHAPES}")
        try:
            parts = urlsplit(text)
            host, _ = parts.hostname, parts.port
        except ValueError:  # whose message would repeat the address
            host = None
        if not host or not _complete(parts):
            raise RunError(f"notify: {name} should be {SHAPES}")
        return cls(parts)

    def __str__(self) -> str:
        return str(self.parts.hostname)

    def deliver(self, notice: Notice) -> None:
        """Sends it once. Raises OSError, HTTPException or SMTPException where that fails."""
        (post if self.parts.scheme.startswith("http") else mail)(self.parts, notice)


def _complete(parts: SplitResult) -> bool:
    if parts.scheme in ("http", "https"):
        return "@" not in parts.netloc
    return parts.scheme in ("smtp", "smtps") and "to" in parse_qs(parts.query)


class _Here(HTTPRedirectHandler):
    """Follows no redirect, which would carry the alarm to who knows where."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def post(parts: SplitResult, notice: Notice) -> None:
    """A POST of JSON; its `text` is what Slack, Mattermost and the like show."""
    body = json.dumps({"text": notice.text, **asdict(notice)}).encode()
    request = Request(parts._replace(fragment="").geturl(), body, {"Content-Type": "application/json"})
    with build_opener(_Here).open(request, timeout=PATIENCE):
        pass


def mail(parts: SplitResult, notice: Notice) -> None:
    """A mail to `to`, which is its sender too. A password is sent through TLS alone."""
    receiver = parse_qs(parts.query)["to"][0]
    message = EmailMessage()
    message["From"] = message["To"] = receiver
    message["Subject"] = f"alarm of {notice.monitor} in {notice.run}"
    message.set_content(notice.text + "\n")
    trusted = ssl.create_default_context()
    options: dict[str, Any] = {"context": trusted} if parts.scheme == "smtps" else {}
    connect = smtplib.SMTP_SSL if options else smtplib.SMTP
    with connect(str(parts.hostname), parts.port or 0, timeout=PATIENCE, **options) as server:
        server.ehlo()
        if not options and server.has_extn("starttls"):
            server.starttls(context=trusted)
        elif not options and parts.password:
            raise smtplib.SMTPNotSupportedError("it offers no TLS, and a password is sent through TLS alone")
        if parts.password:
            server.login(unquote(parts.username or ""), unquote(parts.password))
        server.send_message(message)
