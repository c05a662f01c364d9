"""The lead's pages: how the study goes, who works how, and invitations."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, cast, desc, func, select
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from rlhf_collect.store import people, tables
from rlhf_collect.summary import GATE, summarise
from rlhf_plugins import DataError

if TYPE_CHECKING:
    from rlhf_collect.page.app import Pages

SAMPLES = 200  # resamples of the bootstrap
DAYS = 14


class Lead:
    """What each route answers; to a lead alone."""

    def __init__(self, pages: Pages) -> None:
        self.pages, self.study = pages, pages.study

    def routes(self) -> list[Route]:
        """Under /lead."""
        return [
            Route("/lead", self.overview),
            Route("/lead/invite", self.invite, methods=["POST"]),
            Route("/lead/state", self.state, methods=["POST"]),
        ]

    async def overview(self, request: Request) -> Response:
        """The dashboard."""
        person = await self.pages.person(request)
        if person is None:
            return self.pages.message(None, "no_session", 401)
        if person.role != "lead":
            raise HTTPException(403, "only a lead may see this")
        return await self._page(person)

    async def invite(self, request: Request) -> Response:
        """A link for somebody."""
        form, person = await self._changes(request)
        try:
            secret = await run_in_threadpool(self._invited, form.get("name", ""), form.get("role", "annotator"))
        except DataError as error:
            return await self._page(person, fault=str(error))
        link = f"{request.base_url}enter?ticket={secret}"
        return await self._page(person, link=link, name=form["name"])

    async def state(self, request: Request) -> Response:
        """Pauses somebody, or lets somebody go on."""
        form, _ = await self._changes(request)
        known = {str(one.id): one.id for one in await run_in_threadpool(self._everyone)}
        if form.get("person") not in known or form.get("state") not in ("active", "paused"):
            raise HTTPException(422, "there is no such person or state")
        await run_in_threadpool(self._set, known[form["person"]], form["state"])
        return RedirectResponse("/lead", 303)

    async def _changes(self, request: Request) -> tuple[dict[str, str], people.Person]:
        form, person = await self.pages.changes(request)
        if person.role != "lead":
            raise HTTPException(403, "only a lead may do this")
        return form, person

    async def _page(self, person: people.Person, **given: Any) -> Response:
        found = await run_in_threadpool(summarise, self.study, SAMPLES)
        days, releases = await run_in_threadpool(self._history)
        given = {"link": "", "name": "", "fault": "", "days": days, "releases": releases, "gate": GATE, **given}
        return self.pages.page("lead.html", person, found=found, **given)

    def _history(self) -> tuple[list[tuple[str, int]], list[Any]]:
        """Judgements a day, newest first; the releases."""
        day = cast(tables.annotation.c.at, BigInteger) // 86400  # whole seconds first: PostgreSQL rounds, SQLite cuts
        rows = select(day.label("day"), func.count()).group_by("day").order_by(desc("day")).limit(DAYS)
        with self.study.database.reading() as connection:
            days = [(_day(number), count) for number, count in connection.execute(rows).all()]
            made = connection.execute(select(tables.release).order_by(tables.release.c.number.desc())).all()
        return days, [(row.number, _day(row.at / 86400), row.watermark, row.digest[:12]) for row in made]

    def _invited(self, name: str, role: str) -> str:
        with self.study.database.writing() as connection:
            return people.invite(connection, self.study.now(), name, role)

    def _everyone(self) -> list[people.Person]:
        with self.study.database.reading() as connection:
            return people.everyone(connection)

    def _set(self, person: int, state: str) -> None:
        reason = "paused by the lead" if state == "paused" else ""
        with self.study.database.writing() as connection:
            people.set_state(connection, self.study.now(), person, state, reason)


def _day(number: float) -> str:
    return datetime.fromtimestamp(number * 86400, UTC).strftime("%Y-%m-%d")
