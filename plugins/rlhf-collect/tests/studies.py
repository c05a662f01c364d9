"""Small studies, people at their pages, and a clock that only moves when it is asked to."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_collect.page.app import site
from rlhf_collect.settings import Settings
from rlhf_collect.store import people
from rlhf_collect.store.desk import Desk
from rlhf_collect.store.rows import Asked, Written
from rlhf_collect.study import Study, new_study
from starlette.testclient import TestClient

HERE = "http://127.0.0.1:8000"


class Clock:
    """Seconds that pass when `tick` is called."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at

    def tick(self, seconds: float) -> None:
        self.at += seconds


class Never:
    """A random generator whose numbers are all high: no gold item is drawn."""

    def random(self) -> float:
        return 0.999

    def __getattr__(self, name: str) -> Any:
        return getattr(__import__("random").Random(0), name)


def pair(number: int, **more: Any) -> Asked:
    """A prompt with two answers, the first of which is better."""
    answers = (Written(f"good {number}", {"model": "model-g"}), Written(f"bad {number}", {"model": "model-b"}))
    return Asked(f"rows:{number}", f"prompt {number}", answers, **more)


def study(folder: Path, rows: list[Asked], **settings: Any) -> Study:
    """An open study with a clock of its own."""
    made = new_study(folder / "study", Settings(**settings))
    made.now = Clock()
    made.add(rows)
    return made


class Browser:
    """A person at the page."""

    def __init__(self, of: Study, name: str, role: str = "annotator") -> None:
        self.study = of
        self.desk = Desk(of, Never())
        self.http = TestClient(site(of, desk=self.desk), base_url=HERE, headers={"origin": HERE})
        with of.database.writing() as connection:
            ticket = people.invite(connection, of.now(), name, role)
        self.page = self.http.post("/enter", data={"ticket": ticket}).text

    def hidden(self) -> dict[str, str]:
        """The hidden fields of the page's form."""
        form = self.page.partition('id="judge"')[2]
        return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))

    def shown(self) -> list[str]:
        """The answers, left to right."""
        return re.findall(r"<article[^>]*><p>(.*?)</p>", self.page)

    def texts(self) -> list[str]:
        """The answers of a ranking or rating, in the order of the page."""
        return [re.findall(r"<p>(.*?)</p>", one)[-1] for one in re.findall(r"(?s)<article.*?</article>", self.page)]

    def judge(self, **fields: str) -> None:
        """Sends the form of the page after a minute, and follows to the next."""
        self.study.now.tick(60)
        self.page = self.http.post("/judge", data={**self.hidden(), **fields}).text

    def work(self, choice: Callable[[list[str]], int]) -> int:
        """Judges every item; how many there were."""
        count = 0
        while shown := self.shown():
            self.judge(choice=str(choice(shown)))
            count += 1
        return count


def prefers_good(shown: list[str]) -> int:
    """3 for the side that is good."""
    return 3 if shown[0].startswith("good") else -3
