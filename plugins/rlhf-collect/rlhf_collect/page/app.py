"""The site of a study: its routes, and how a request becomes a page."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from rlhf_collect.kinds.base import Unreadable
from rlhf_collect.page.guard import Guard, check_token, form_of
from rlhf_collect.page.lead import Lead
from rlhf_collect.page.words import LANGUAGES, RIGHT_TO_LEFT, speaker, words
from rlhf_collect.store import history, people, tables
from rlhf_collect.store.chain import digest
from rlhf_collect.store.database import full
from rlhf_collect.store.desk import Desk, Taken
from rlhf_collect.store.people import Person
from rlhf_collect.study import Study

HERE = Path(__file__).parent
PART = "x-part"  # the header of a request that wants the changing part of a page
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def site(study: Study, hosts: Iterable[str] = LOOPBACK, desk: Desk | None = None) -> Starlette:
    """The ASGI application."""
    pages = Pages(study, desk or Desk(study))
    routes = [
        Route("/", pages.work),
        Route("/judge", pages.judge, methods=["POST"]),
        Route("/enter", pages.enter, methods=["GET", "POST"]),
        Route("/leave", pages.leave, methods=["POST"]),
        Route("/language", pages.language, methods=["POST"]),
        Route("/guidelines", pages.guidelines),
        Route("/mine", pages.mine),
        Route("/again/{which}", pages.again),
        *Lead(pages).routes(),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    handlers = {Unreadable: pages.unreadable, OperationalError: pages.unavailable, HTTPException: pages.refused}
    return Starlette(routes=routes, middleware=[Middleware(Guard, hosts=hosts)], exception_handlers=handlers)


def cookie_of(study: Study) -> str:
    """The name of the cookie of a study's sessions: all ports of a host share their cookies, and studies may not."""
    with study.database.reading() as connection:
        created = connection.execute(select(tables.study.c.created)).scalar_one()
    return f"rlhf_collect_{digest(created)[:12]}"


class Pages:
    """What each route answers."""

    def __init__(self, study: Study, desk: Desk) -> None:
        self.study, self.desk, self.cookie = study, desk, cookie_of(study)
        self.jinja = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )

    async def work(self, request: Request) -> Response:
        """The item that the person is at."""
        person = await self.person(request)
        return await self.next_item(person, "task.html") if person else self.message(None, "no_session", 401)

    async def judge(self, request: Request) -> Response:
        """Takes a judgement; answers with the next item, or the way to it."""
        form, person = await self.changes(request)
        part = PART in request.headers
        if person.state != "active":
            raise HTTPException(403, speaker(person.language)("paused", reason=person.reason))
        taken = await run_in_threadpool(self.desk.submit, person, form)
        if taken.paused:
            return self.message(person, "paused", 200, part, reason=taken.paused)
        feedback = taken if taken.purpose == "training" or taken.hint else None
        if part:
            return await self.next_item(person, "_task.html", feedback)
        return await self.next_item(person, "task.html", feedback) if feedback else RedirectResponse("/", 303)

    async def next_item(self, person: Person, template: str, feedback: Taken | None = None) -> Response:
        """The page of the next item, or the part of it that changes."""
        if person.state != "active":
            return self.message(person, "paused", reason=person.reason)
        task = await run_in_threadpool(self.desk.claim, person)
        done = await run_in_threadpool(history.answered, self.study, person)
        return self.page(template, person, task=task, done=done, feedback=feedback, key=secrets.token_urlsafe(16))

    async def enter(self, request: Request) -> Response:
        """Shows a button, since programs that look at links before people do would use the link up; then lets in."""
        if request.method == "GET":
            return self.page("enter.html", None, ticket=request.query_params.get("ticket", ""))
        form = await form_of(request)
        token = await run_in_threadpool(self._enter, form.get("ticket", ""))
        if token is None:
            return self.message(None, "no_session", 401)
        answer = RedirectResponse("/", 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(
            self.cookie, token, int(people.SESSION_SECONDS), httponly=True, samesite="strict", secure=secure
        )
        return answer

    async def leave(self, request: Request) -> Response:
        """Ends the session."""
        await self.changes(request)
        await run_in_threadpool(self._leave, request.cookies[self.cookie])
        answer = RedirectResponse("/", 303)
        answer.delete_cookie(self.cookie)
        return answer

    async def language(self, request: Request) -> Response:
        """The language of the person's pages from now on."""
        form, person = await self.changes(request)
        if form.get("language") not in LANGUAGES:
            raise HTTPException(422, "this language is not known")
        await run_in_threadpool(self._speak, person.id, form["language"])
        return RedirectResponse("/", 303)

    async def guidelines(self, request: Request) -> Response:
        """The newest version."""
        person = await self.person(request)
        if person is None:
            return self.message(None, "no_session", 401)
        found = await run_in_threadpool(history.guidelines, self.study)
        return self.page("guidelines.html", person, version=found.version, html=found.html)

    async def mine(self, request: Request) -> Response:
        """The person's last answers."""
        person = await self.person(request)
        if person is None:
            return self.message(None, "no_session", 401)
        rows = await run_in_threadpool(history.latest, self.study, person)
        done = await run_in_threadpool(history.answered, self.study, person)
        known = await run_in_threadpool(history.feedback, self.study, person)
        return self.page("mine.html", person, rows=rows, done=done, known=known)

    async def again(self, request: Request) -> Response:
        """One of the person's last answers, to change it."""
        person = await self.person(request)
        if person is None:
            return self.message(None, "no_session", 401)
        task = await run_in_threadpool(history.again, self.study, person, request.path_params["which"])
        if task is None:
            raise HTTPException(404, "no such answer of yours")
        done = await run_in_threadpool(history.answered, self.study, person)
        return self.page("task.html", person, task=task, done=done, feedback=None, key=secrets.token_urlsafe(16))

    async def person(self, request: Request) -> Person | None:
        """Whose session it is."""
        token = request.cookies.get(self.cookie)
        return await run_in_threadpool(self._who, token) if token else None

    async def changes(self, request: Request) -> tuple[dict[str, str], Person]:
        """The form and person of a change. Raises HTTPException where they do not go together."""
        person = await self.person(request)
        if person is None:
            raise HTTPException(401, speaker("en")("no_session"))
        form = await form_of(request)
        check_token(form, person.csrf)
        return form, person

    def page(self, template: str, person: Person | None, status: int = 200, **given: Any) -> HTMLResponse:
        """A template in the person's language."""
        language = person.language if person else "en"
        direction = "rtl" if language in RIGHT_TO_LEFT else "ltr"
        settings = self.study.settings
        given = {"dimensions": settings.dimensions or ("overall",), "kind": settings.kind, **given}
        common: dict[str, Any] = {
            "person": person,
            "languages": LANGUAGES,
            "language": language,
            "direction": direction,
            "words": words(language),
        }
        text = self.jinja.get_template(template).render(say=speaker(language), **common, **given)
        return HTMLResponse(text, status)

    def message(
        self, person: Person | None, key: str, status: int = 200, part: bool = False, **given: object
    ) -> HTMLResponse:
        """A page that says one thing, or the part of it that changes."""
        said = speaker(person.language if person else "en")(key, **given)
        return self.page("_message.html" if part else "message.html", person, status, message=said)

    async def unreadable(self, request: Request, error: Exception) -> Response:
        """A form that holds no judgement."""
        return self.fault(request, 422, str(error))

    async def refused(self, request: Request, error: Exception) -> Response:
        """What is not there or not allowed."""
        assert isinstance(error, HTTPException)
        return self.fault(request, error.status_code, error.detail)

    async def unavailable(self, request: Request, error: Exception) -> Response:
        """A database that takes nothing: 507 for a full disk."""
        assert isinstance(error, OperationalError)
        if full(error):
            return self.fault(request, 507, speaker("en")("full"))
        raise error

    def fault(self, request: Request, status: int, said: str) -> Response:
        """One line for the script, which shows it above the item; a page for a browser."""
        if PART in request.headers:
            return PlainTextResponse(said, status)
        return self.page("message.html", None, status, message=said)

    def _who(self, token: str) -> Person | None:
        with self.study.database.reading() as connection:
            return people.who(connection, self.study.now(), token)

    def _enter(self, ticket: str) -> str | None:
        with self.study.database.writing() as connection:
            return people.enter(connection, self.study.now(), ticket)

    def _speak(self, person: int, language: str) -> None:
        with self.study.database.writing() as connection:
            people.speak(connection, person, language)

    def _leave(self, token: str) -> None:
        with self.study.database.writing() as connection:
            people.leave(connection, token)
