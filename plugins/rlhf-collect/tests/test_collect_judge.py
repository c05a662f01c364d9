"""The judge `people`: it waits for votes, asks nothing twice, and says why a pair has no answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rlhf_collect import judge
from rlhf_collect.judge import People
from rlhf_collect.simulate import join
from rlhf_collect.store import answered, history, judged
from sqlalchemy.event import listen
from studies import Browser, pair, prefers_good, study

from rlhf_plugins import RunError, Verdict

PAIRS = (["p0", "p1", "p2"], ["good 0", "bad 1", "good 2"], ["bad 0", "good 1", "same"])


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """What happens while the judge waits; nothing else may."""

    def during(happens: Callable[[], Any]) -> None:
        monkeypatch.setattr(judge, "sleep", lambda seconds: happens())

    return during


def asked(made: Any, *, stopped: bool = False) -> list[Verdict]:
    run: Any = SimpleNamespace(stopped=lambda: stopped)
    return list(People(study=str(made.folder)).build(run)(*PAIRS))


def test_votes_become_shares_for_the_first_and_nothing_is_asked_twice(tmp_path: Path, waits: Any) -> None:
    """Both prefer the good one; of `good 2` and `same` one calls it a tie."""
    made = study(tmp_path, [], votes=2, most_votes=2)
    people = [Browser(made, name) for name in ("Ada", "Ben")]

    def work() -> None:
        for sees_ties, one in zip((True, False), people, strict=True):
            one.page = one.http.get("/").text
            one.work(lambda shown, ties=sees_ties: 0 if ties and "same" in shown else prefers_good(shown))

    waits(work)
    assert [one.probability for one in asked(made)] == [1.0, 0.0, 0.75]
    waits(lambda: pytest.fail("asked again"))
    assert [one.probability for one in asked(made)] == [1.0, 0.0, 0.75]


def test_a_run_that_is_to_end_does_not_wait(tmp_path: Path, waits: Any) -> None:
    made = study(tmp_path, [], votes=1)
    waits(lambda: pytest.fail("waited"))
    with pytest.raises(RunError, match="0 of 3 pairs are judged"):
        asked(made, stopped=True)


def test_what_people_cannot_be_asked_is_no_number(tmp_path: Path, waits: Any) -> None:
    made, run = study(tmp_path, [], votes=1), SimpleNamespace(stopped=lambda: False)
    people = People(study=str(made.folder)).build(run)  # type: ignore[arg-type]
    (verdict,) = people(["p"], ["same"], ["same"])
    assert (verdict.status, verdict.probability) == ("failed", None)
    with pytest.raises(RunError, match="a prompt is messages"):
        people([[{"role": "user", "content": "p"}]], ["a"], ["b"])
    rated = study(tmp_path / "rated", [], kind="rating", dimensions=("help",))
    with pytest.raises(RunError, match="asks for a rating"):
        asked(rated)


def test_a_vote_of_someone_who_is_paused_does_not_count(tmp_path: Path, waits: Any) -> None:
    made = study(tmp_path, [], votes=1)
    browser = Browser(made, "Ada")

    def work() -> None:
        browser.page = browser.http.get("/").text
        browser.work(prefers_good)
        with made.database.writing() as connection:
            connection.exec_driver_sql("UPDATE person SET state = 'paused'")

    waits(work)
    assert [one.status for one in asked(made)] == ["abstained"] * 3


def test_the_judge_and_a_persons_list_scan_no_table(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n) for n in range(3)])
    ada, plans = join(made, "Ada"), list[str]()

    def note(connection: Any, cursor: Any, statement: str, given: Any, *rest: Any) -> None:
        if statement.startswith("SELECT"):
            rows = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", given)
            plans.extend(row[3] for row in rows)

    listen(made.database.engine, "before_cursor_execute", note)
    with made.database.reading() as connection:
        judged.items(connection, [1, 2])
    assert answered.items_of(made, [("prompt 1", "bad 1", "good 1")]) == [(2, True)]
    answered.open_items(made, [1, 2])
    answered.shares(made, [1, 2])
    history.latest(made, ada)
    big = ("prompt", "answer", "item", "annotation", "slot")
    assert [plan for plan in plans if plan.startswith("SEARCH")]
    assert [plan for plan in plans if plan.startswith("SCAN") and plan.split()[1] in big] == []
