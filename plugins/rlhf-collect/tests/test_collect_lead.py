"""The lead's page, invitations, and reviewers who decide what others are divided on."""

from __future__ import annotations

import re
from pathlib import Path

from rlhf_collect import release as releases
from rlhf_collect.aggregate.votes import Verdict
from rlhf_collect.simulate import join
from rlhf_collect.store.desk import Desk
from studies import HERE, Browser, Never, pair, prefers_good, study


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
