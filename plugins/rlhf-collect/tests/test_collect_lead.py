"""The lead's page, invitations, and reviewers who decide what others are divided on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rlhf_collect import release as releases
from rlhf_collect.aggregate.votes import Verdict
from rlhf_collect.shapes.every import SHAPES
from rlhf_collect.simulate import join
from rlhf_collect.store import queue
from rlhf_collect.store.desk import Desk, Task
from rlhf_collect.store.rows import Asked, Written
from studies import HERE, Browser, Never, pair, prefers_good, study

from rlhf_plugins import DataError


def test_a_lead_sees_how_the_study_goes(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n) for n in range(4)], votes=2)
    for name in ("Ada", "Ben"):
        Browser(made, name).work(prefers_good)
    page = Browser(made, "Lin", role="lead").http.get("/lead").text
    assert "4 a" in page
    assert re.search("<bdi>Ada</bdi></td><td>annotator</td><td>4</td>", page)
    assert "<dd>whole</dd>" in page


def test_a_lead_invites_pauses_and_lets_on(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)])
    lead = Browser(made, "Lin", role="lead")
    csrf = lead.hidden()["csrf"]
    page = lead.http.post("/lead/invite", data={"csrf": csrf, "name": "Ada", "role": "annotator"}).text
    (ticket,) = re.findall(r"/enter\?ticket=([\w-]+)", page)
    lead.http.post("/lead/state", data={"csrf": csrf, "person": "2", "state": "paused"})
    ada = Browser(made, "Other").http
    ada.cookies.clear()
    assert "Your work is paused: paused by the lead" in ada.post("/enter", data={"ticket": ticket}).text
    lead.http.post("/lead/state", data={"csrf": csrf, "person": "2", "state": "active"})
    assert 'id="judge"' in ada.get(HERE).text


def test_a_name_that_cannot_be_is_said_on_the_page(tmp_path: Path) -> None:
    lead = Browser(study(tmp_path, [pair(1)]), "Lin", role="lead")
    form = {"csrf": lead.hidden()["csrf"], "name": "Lin", "role": "annotator"}
    assert "Lin is a lead already" in lead.http.post("/lead/invite", data=form).text


def judge(desk: Desk, person: object, good: int, act: str = "answered") -> bool:
    task = desk.claim(person)
    if task is None:
        return False
    choice = good if "good" in task.answers[0] else -good
    desk.submit(person, {"token": task.token, "key": "k", "choice": str(choice), "act": act, "reason": "odd"})
    return True


def test_a_reviewer_decides_what_seven_people_are_divided_on(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)])
    desk, rita = Desk(made, Never()), join(made, "Rita", "reviewer")
    for n in range(7):
        assert judge(desk, join(made, f"p{n}"), 1 if n % 2 else 0)
    assert judge(desk, rita, 2)
    assert not judge(desk, rita, 2)
    (one,) = releases.make(made, releases.Parameters(test_fraction=0.0)).rows
    assert one.verdicts[""] == Verdict("a", {"a": 1.0}, 3 / 7, 1.0, decided=True)


def test_a_reviewer_gets_what_was_reported(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)], votes=1)
    desk, rita = Desk(made, Never()), join(made, "Rita", "reviewer")
    judge(desk, join(made, "Ada"), 1, act="flagged")
    assert [judge(desk, rita, 2), judge(desk, rita, 2)] == [True, False]
    found = releases.make(made, releases.Parameters())
    assert (found.rows, found.left_out) == ((), {"answered by a reviewer alone": 1})


def placed(task: Task | None, best: str, key: str) -> dict[str, str]:
    assert task
    places = {f"place_{n}": str(1 if best in html else 2) for n, html in enumerate(task.answers)}
    return {"token": task.token, "key": key, **places, **{f"overall_{n}": "1" for n in range(3)}}


@pytest.mark.parametrize(("kind", "column", "value"), [("ranking", "ranks", [1, 1, 0]), ("rating", "responses", 1.0)])
def test_the_row_of_a_reviewed_item_is_the_reviewers_answer(
    tmp_path: Path, kind: str, column: str, value: object
) -> None:
    row = Asked("", "p", tuple(Written(text, {}) for text in ("red", "green", "blue")))
    made = study(tmp_path, [row], kind=kind, votes=1)
    desk, ada = Desk(made, Never()), join(made, "Ada")
    desk.submit(ada, {**placed(desk.claim(ada), "red", "a"), **{f"overall_{n}": "7" for n in range(3)}})
    with made.database.writing() as connection:
        queue.widen(connection, 1, Never(), 0.0, "review")
    rita = join(made, "Rita", "reviewer")
    desk.submit(rita, placed(desk.claim(rita), "blue", "r"))
    (one,) = releases.make(made, releases.Parameters(test_fraction=0.0)).rows
    found = SHAPES[kind].row(one)
    assert found["reviewed"]
    assert (found[column] if kind == "ranking" else found[column][0]["overall"]) == value


def test_abilities_label_pairs_alone(tmp_path: Path) -> None:
    made = study(tmp_path, [], kind="ranking")
    with pytest.raises(DataError, match="dawid_skene finds the labels of pairs; a ranking is made of all votes alike"):
        releases.make(made, releases.Parameters(aggregate="dawid_skene"))
