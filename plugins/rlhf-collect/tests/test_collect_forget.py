"""A person's data: all of it is shown, all of it is deleted, and what others said stays as it was."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rlhf_collect import release as releases
from rlhf_collect.commands import collect
from rlhf_collect.kinds.base import Unreadable
from rlhf_collect.migrate import migrate
from rlhf_collect.simulate import join
from rlhf_collect.store import ability, chain, people, personal, tables
from rlhf_collect.store.database import Database
from rlhf_collect.store.desk import Desk
from rlhf_collect.study import Study, open_study
from rlhf_collect.suggest import keep
from rlhf_collect.summary import summarise
from sqlalchemy import delete, event, text
from sqlalchemy.exc import IntegrityError, OperationalError
from studies import HERE, Browser, Never, pair, prefers_good, study
from test_collect_migrate import aged, rows_of
from typer.testing import CliRunner

from rlhf_plugins import DataError

NAME, REASON = "Ada Quillfeather-7731", "zebra marmalade 4711"
GOLD = (pair(8, purpose="training", known="a"), pair(9, purpose="gold", known="a"))
KILLED = """
import os, signal, sys
from rlhf_collect.store import chain, personal
from rlhf_collect.study import open_study
chain.append = lambda *event: os.kill(os.getpid(), signal.SIGKILL)  # all is deleted by then, and nothing committed
personal.forget(open_study(sys.argv[1]), sys.argv[2])
"""


def judged(folder: Path) -> Study:
    """Ada and Ben judged a training item and three others; she gave a reason, changed an answer and is at a fourth."""
    made = study(folder, [*(pair(n) for n in range(4)), *GOLD], votes=2)
    keep(made, dict.fromkeys(range(1, 5), 1), "model")
    for name in (NAME, "Ben"):
        browser = Browser(made, name)
        for _ in range(4):
            browser.judge(choice=str(prefers_good(browser.shown())), reason=REASON if name == NAME else "of Ben")
        browser.page = browser.http.get("/again/last").text
        browser.judge(choice=str(prefers_good(browser.shown())))
        with made.database.writing() as connection:
            people.invite(connection, made.now(), name)
    return made


def number_of(made: Study, name: str = NAME) -> int:
    with made.database.reading() as connection:
        return people.named(connection, name)


def of_others(rows: dict[str, list[dict[str, Any]]], person: int) -> dict[str, list[dict[str, Any]]]:
    """The rows that are not of the person; events without their numbers and digests, places without who is there."""
    found = {name: [one for one in table if one.get("person") != person] for name, table in rows.items()}
    found["person"] = [one for one in found["person"] if one["id"] != person]
    found["event"] = [
        {"at": one["at"], "what": one["what"], "body": one["body"]}
        for one in found["event"]
        if one["body"].get("person") != person
    ]
    return found


def bytes_of(folder: Path) -> bytes:
    """Of the study's file and its write-ahead log."""
    return b"".join(file.read_bytes() for file in sorted(folder.glob("study.db*")))


def test_all_that_is_kept_of_a_person_is_shown_but_secrets(tmp_path: Path) -> None:
    made = judged(tmp_path)
    found = personal.about(made, NAME)
    assert (found["person"]["name"], found["person"]["created"]) == (NAME, "1970-01-01T00:16:40+00:00")
    counts = {name: len(rows) for name, rows in found.items() if name != "person"}
    # 4 places and the leased one; 5 leases; 4 answers and a changed one; joined, 2 invited, entered and 5 judged
    assert {*personal.TABLES} == {table for table in tables.metadata.sorted_tables if "person" in table.c}
    assert counts == {
        **{"places": 5, "leases": 5, "judgements": 5, "checked answers": 1, "suggestions": 3},
        **{"links": 1, "sessions": 1, "events": 9},
    }
    assert personal.kept(made, NAME).counts == counts
    first = found["judgements"][0]
    assert (first["reason"], first["prompt"], first["answers"]) == (REASON, "prompt 8", ("good 8", "bad 8"))
    rows = rows_of(made)
    secrets = [row[name] for name in ("lease", "session") for row in rows[name] for name in personal.SECRETS & {*row}]
    assert secrets
    assert not [one for one in secrets if one in json.dumps(found)]


def test_a_deleted_person_is_gone_and_others_are_as_they_were(tmp_path: Path) -> None:
    made = judged(tmp_path)
    before, ada = rows_of(made), number_of(made)
    personal.forget(made, NAME)
    after = rows_of(made)
    assert after["event"].pop()["body"] == {"person": ada}
    free = {"state": "free", "person": None, "until": None}
    assert after["slot"] == [row | (free if row["person"] == ada else {}) for row in before["slot"]]
    assert of_others(after, ada) | {"slot": []} == of_others(before, ada) | {"slot": []}
    assert NAME not in repr(after)
    assert [name for name, table in after.items() if any(one.get("person") == ada for one in table)] == []
    with made.database.reading() as connection:
        assert chain.first_broken(connection) is None
    for table in [table for table in tables.KEPT if after[table.name]]:
        with pytest.raises(IntegrityError, match="is never changed"), made.database.writing() as connection:
            connection.execute(delete(table))


def test_no_byte_of_a_deleted_person_is_in_the_file(tmp_path: Path) -> None:
    made = judged(tmp_path)
    made.close()
    event.listen(
        made.database.engine, "connect", lambda c, _: c.execute("PRAGMA secure_delete=OFF")
    )  # on in some builds
    rows = rows_of(made)
    theirs = [NAME, REASON, *(row["token"] for row in rows["lease"] if row["person"] == number_of(made))]
    theirs += [row["key"] for row in rows["annotation"] if row["person"] == number_of(made)]
    assert all(one.encode() in bytes_of(made.folder) for one in theirs)
    other = open_study(made.folder)  # as a server is, with connections of its own
    with other.database.reading() as connection:
        people.everyone(connection)
    personal.forget(made, NAME)
    assert [one for one in theirs if one.encode() in bytes_of(made.folder)] == []
    assert b"of Ben" in bytes_of(made.folder)
    assert [row["name"] for row in rows_of(other)["person"]] == ["Ben"]


def test_a_deletion_that_is_killed_deletes_nothing(tmp_path: Path) -> None:
    made = judged(tmp_path)
    before = rows_of(made)
    done = subprocess.run([sys.executable, "-c", KILLED, made.folder, NAME], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert rows_of(made) == before
    with pytest.raises(IntegrityError, match="is never changed"), made.database.writing() as connection:
        connection.execute(text("DELETE FROM annotation"))


def test_what_a_killed_deletion_left_in_free_pages_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = judged(tmp_path)

    def failing(*of: object) -> None:
        raise OperationalError("", None, Exception("disk is full"))

    with monkeypatch.context() as patched:
        patched.setattr(Database, "scrub", failing)
        with pytest.raises(DataError, match="left in free pages of the database: disk is full; run this again"):
            personal.forget(made, NAME)
    assert REASON.encode() in bytes_of(made.folder)
    with pytest.raises(DataError, match="nobody is called"):
        personal.forget(made, NAME)
    assert REASON.encode() not in bytes_of(made.folder)


def test_a_reader_that_keeps_the_log_from_being_emptied_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf_collect.store.database.BUSY_SECONDS", 0.1)
    made = judged(tmp_path)
    with sqlite3.connect(made.folder / "study.db") as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT name FROM person").fetchall()
        made = open_study(made.folder)
        with pytest.raises(DataError, match="the write-ahead log is being read; run this again"):
            personal.forget(made, NAME)
    reader.close()
    with pytest.raises(DataError, match="nobody is called"):
        personal.forget(made, NAME)
    assert NAME.encode() not in bytes_of(made.folder)


def test_places_are_open_again_and_the_next_gets_them(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1), pair(2)], votes=1)
    ada, ben = Browser(made, "Ada"), Browser(made, "Ben")
    first = ada.shown()
    ada.judge(choice="1")  # one item is judged by Ada, the other is leased to Ben
    assert Browser(made, "Cai").shown() == []
    personal.forget(made, "Ada")
    assert set(Browser(made, "Cai").shown()) == set(first)
    assert {*ben.shown()} != {*first}


def test_a_lease_of_a_deleted_person_ends(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)], votes=1)
    desk, ada, ben = Desk(made, Never()), join(made, "Ada"), join(made, "Ben")
    task = desk.claim(ada)
    assert desk.claim(ben) is None
    personal.forget(made, "Ada")
    assert desk.claim(ada) is None  # a request that was on its way
    with pytest.raises(Unreadable, match="was not given to you"):
        desk.submit(ada, {"token": task.token, "key": "k", "choice": "1"})
    assert desk.claim(ben).prompt == task.prompt


def test_no_link_or_session_of_a_deleted_person_lets_in(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)])
    ada = Browser(made, "Ada")
    form = {**ada.hidden(), "choice": "1"}
    with made.database.writing() as connection:
        ticket = people.invite(connection, made.now(), "Ada")
    personal.forget(made, "Ada")
    assert ada.http.get("/").status_code == 401
    assert ada.http.post("/judge", data=form).status_code == 401
    assert ada.http.post("/enter", data={"ticket": ticket}, headers={"origin": HERE}).status_code == 401
    assert rows_of(made)["annotation"] == []
    Browser(made, "Ada").judge(choice="1")  # invited again, somebody new
    assert [row["person"] for row in rows_of(made)["annotation"]] == [2]


def test_agreement_and_labels_are_those_of_the_others(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n) for n in range(6)], most_votes=3)
    for name, sign in (("Ada", -1), ("Ben", 1), ("Cai", 1)):
        Browser(made, name).work(lambda shown, sign=sign: sign * prefers_good(shown))
    before = summarise(made, samples=10)
    personal.forget(made, "Ada")
    after = summarise(made, samples=10)
    assert (before.votes, after.votes, after.slots) == (18, 12, {"done": 12, "free": 6})
    # 6 of 18 votes for b: of 18 pairs of votes 6 agree; expected 12 * 11 + 6 * 5 of 18 * 17 ordered pairs
    assert before.agreement["alpha"].value == pytest.approx(1 - (2 / 3) / (1 - 162 / 306))
    assert after.agreement["AC1"].value == 1.0  # Ben and Cai always agree
    assert [one.name for one in after.people] == ["Ben", "Cai"]
    assert after.broken is None


def test_a_reviewers_decision_goes_with_the_reviewer(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)], votes=1)
    Browser(made, "Ada").judge(act="flagged", reason="odd")
    rita = Browser(made, "Rita", "reviewer")
    rita.judge(choice=str(-prefers_good(rita.shown())))
    Browser(made, "Ben").work(prefers_good)
    assert [one.verdicts[""].label for one in releases.make(made, releases.Parameters()).rows] == ["b"]
    personal.forget(made, "Rita")
    assert [one.verdicts[""].label for one in releases.make(made, releases.Parameters()).rows] == ["a"]
    assert Browser(made, "Rob", "reviewer").shown()


def test_who_is_able_is_found_without_a_deleted_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ability, "LEAST", 1)
    made = study(tmp_path, [pair(n) for n in range(4)], votes=4)
    for name in ("Ada", "Ben", "Cai", "Dan"):
        Browser(made, name).work(lambda shown, of=name: prefers_good(shown) * (-1 if of == "Dan" else 1))
    ability.rank(made)
    able = {row["name"]: row["able"] for row in rows_of(made)["person"]}
    assert able == {"Ada": 1, "Ben": 1, "Cai": 0, "Dan": 0}
    personal.forget(made, "Ada")
    rows = rows_of(made)
    assert {row["name"]: row["able"] for row in rows["person"]} == {"Ben": 1, "Cai": 1, "Dan": 0}
    assert [row["body"] for row in rows["event"] if row["what"] == "ranked"] == [{"able": [2]}, {"able": [2, 3]}]


def test_a_release_that_counted_a_deleted_person_is_not_made_again(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n) for n in range(4)], votes=2)
    Browser(made, "Ben").work(prefers_good)
    first = releases.make(made, releases.Parameters())
    Browser(made, "Ada").work(prefers_good)
    releases.make(made, releases.Parameters())
    with made.database.writing() as connection:
        people.set_state(connection, made.now(), 2, "paused")
    third = releases.make(made, releases.Parameters())
    assert personal.forget(made, "Ada").releases == (2,)
    with pytest.raises(releases.Forgotten, match="release 2 counted judgements of people who were deleted since"):
        releases.load(made, 2)
    assert [releases.load(made, 1), releases.load(made, 3)] == [first, third]
    assert [row["parameters"]["without"] for row in rows_of(made)["release"]] == [[], [], []]
    Browser(made, "Cai").work(prefers_good)  # later judgements count in no earlier release
    assert releases.load(made, 3) == third


@pytest.mark.parametrize("older", [False, True], ids=["new", "migrated"])
def test_no_number_is_given_twice(tmp_path: Path, older: bool) -> None:
    made = judged(tmp_path)
    last, now = rows_of(made)["annotation"][-1]["id"], made.now
    if older:
        migrate(aged(made))
        made = open_study(made.folder)
        made.now = now
    personal.forget(made, "Ben")
    Browser(made, "Cai").judge(choice="1")
    rows = rows_of(made)
    assert [row["id"] for row in rows["person"]] == [1, 3]
    assert rows["annotation"][-1]["id"] == last + 1


def test_a_log_that_was_broken_stays_so(tmp_path: Path) -> None:
    made = judged(tmp_path)
    broken = next(
        row["number"] for row in rows_of(made)["event"] if row["body"].get("person") == number_of(made, "Ben")
    )
    with made.database.writing() as connection, tables.unguarded(connection):
        connection.execute(text("UPDATE event SET at = 0 WHERE number = :number"), {"number": broken})
    personal.forget(made, NAME)
    with made.database.reading() as connection:
        assert chain.first_broken(connection) == broken - 9  # events of Ada, before it


def test_the_commands_show_count_and_delete(tmp_path: Path) -> None:
    made = judged(tmp_path)
    releases.make(made, releases.Parameters())
    (made.folder / "study.db.4").touch()
    run, folder = CliRunner(), str(made.folder)
    assert json.loads(run.invoke(collect, ["show", folder, NAME]).output)["person"]["name"] == NAME
    counted = run.invoke(collect, ["forget", folder, NAME]).output
    assert f"{NAME}: 5 places, 5 leases, 5 judgements, 1 checked answers, 3 suggestions" in counted
    assert "release 1 counts these judgements" in counted
    assert "study.db.4: a copy of before a migration" in counted
    assert "could be deleted: add --yes" in counted
    assert number_of(made)
    assert run.invoke(collect, ["forget", folder, NAME, "--yes"]).output == counted.replace(
        "could be deleted: add --yes", "deleted; the places are open again"
    )
    for command in (["show", folder, "Bem"], ["forget", folder, "Bem"], ["forget", folder, "Bem", "--yes"]):
        assert "nobody is called 'Bem' (did you mean Ben?)" in str(run.invoke(collect, command).exception)
    said = run.invoke(collect, ["export", folder]).output
    assert "no difference.json: " in said
    assert "release 1 counted judgements of people who were deleted since" in said
