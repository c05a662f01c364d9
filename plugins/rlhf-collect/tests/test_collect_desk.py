"""The desk: leases, repeated and late submissions, versions, and the log that shows what was changed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rlhf_collect.kinds.base import Unreadable
from rlhf_collect.simulate import join
from rlhf_collect.store import chain, judged, tables
from rlhf_collect.store.desk import Desk, Task
from rlhf_collect.study import Study, open_study
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import IntegrityError
from studies import Never, pair, study

from rlhf_plugins import DataError

SMALL = ("guideline", "FROM event ORDER BY event.number DESC")  # a few rows, or the last one


def counted(of: Study) -> int:
    with of.database.reading() as connection:
        return len(judged.votes(connection, of.kind, judged.watermark(connection)))


def form(task: Task | None, choice: int = 1, key: str = "k", **more: str) -> dict[str, str]:
    assert task
    return {"token": task.token, "key": key, "choice": str(choice), **more}


def test_the_same_submission_twice_is_one_judgement(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)])
    desk, ada = Desk(made), join(made, "Ada")
    said = form(desk.claim(ada))
    first, second = desk.submit(ada, said), desk.submit(ada, said)
    assert (first.annotation, first.again, second.annotation, second.again) == (1, False, 1, True)
    assert counted(made) == 1


def test_an_item_stays_with_a_person_until_it_is_judged_or_the_lease_ends(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)], votes=1, lease_seconds=60)
    desk, ada, ben = Desk(made), join(made, "Ada"), join(made, "Ben")
    task = desk.claim(ada)
    assert desk.claim(ada) == task
    assert desk.claim(ben) is None
    made.now.tick(61)
    assert desk.claim(ben) is not None


def test_a_late_answer_is_kept_and_not_counted(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)], votes=1, lease_seconds=60)
    desk, ada, ben = Desk(made), join(made, "Ada"), join(made, "Ben")
    late = form(desk.claim(ada))
    made.now.tick(61)
    desk.submit(ben, form(desk.claim(ben)))
    assert desk.submit(ada, late).surplus
    assert counted(made) == 1


def test_a_late_answer_hides_no_answer_of_the_same_person(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)], votes=2, lease_seconds=60)
    desk, ada, ben = Desk(made), join(made, "Ada"), join(made, "Ben")
    late = form(desk.claim(ada), 5, "late")
    made.now.tick(61)
    desk.submit(ben, form(desk.claim(ben), 1))
    desk.submit(ada, form(desk.claim(ada), 2, "counted"))
    assert desk.submit(ada, late).surplus
    with made.database.reading() as connection:
        assert len(judged.values_of(connection, 1)) == 2
    assert counted(made) == 2


def test_a_reviewers_answer_is_no_vote(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)], votes=1)
    desk, ada, rita = Desk(made), join(made, "Ada"), join(made, "Rita", "reviewer")
    desk.submit(ada, form(desk.claim(ada), act="flagged", reason="odd"))
    desk.submit(rita, form(desk.claim(rita)))
    with made.database.reading() as connection:
        assert judged.values_of(connection, 1) == []


def test_a_late_answer_counts_where_nobody_took_the_item(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)], votes=1, lease_seconds=60)
    desk, ada = Desk(made), join(made, "Ada")
    late = form(desk.claim(ada))
    made.now.tick(61)
    assert not desk.submit(ada, late).surplus
    assert counted(made) == 1


def test_nobody_judges_an_item_twice(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)], votes=3)
    desk, ada = Desk(made), join(made, "Ada")
    desk.submit(ada, form(desk.claim(ada)))
    assert desk.claim(ada) is None


def test_a_changed_answer_is_a_version_and_the_newest_counts(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)], votes=1)
    desk, ada = Desk(made), join(made, "Ada")
    task = desk.claim(ada)
    desk.submit(ada, form(task, 5, "first"))
    desk.submit(ada, form(task, 0, "second"))
    with made.database.reading() as connection:
        (vote,) = judged.votes(connection, made.kind, 2)
        assert (vote.value, vote.version) == (0, 2)
        assert connection.execute(select(func.count()).select_from(tables.annotation)).scalar() == 2


def test_a_skipped_item_goes_to_somebody_else(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)], votes=1)
    desk, ada, ben = Desk(made), join(made, "Ada"), join(made, "Ben")
    desk.submit(ada, form(desk.claim(ada), act="skipped"))
    assert desk.claim(ada) is None
    assert desk.claim(ben)
    assert counted(made) == 0


@pytest.mark.parametrize("fault", [{"token": "x"}, {"choice": "6"}, {"choice": "better"}, {"key": ""}, {"act": "sold"}])
def test_a_form_without_a_judgement_is_refused_and_nothing_is_kept(tmp_path: Path, fault: dict[str, str]) -> None:
    made = study(tmp_path, [pair(1)])
    desk, ada = Desk(made), join(made, "Ada")
    with pytest.raises(Unreadable):
        desk.submit(ada, form(desk.claim(ada)) | fault)
    assert counted(made) == 0


def test_sides_are_random_and_a_choice_is_of_the_side(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n) for n in range(60)], votes=1)
    desk, ada = Desk(made, Never()), join(made, "Ada")
    left_is_first = 0
    while task := desk.claim(ada):
        left_is_first += "good" in task.answers[0]
        desk.submit(ada, form(task, 2 if "good" in task.answers[0] else -2, task.token[:20]))
    assert 14 < left_is_first < 46  # 30 +- 4 deviations
    with made.database.reading() as connection:
        assert {vote.value for vote in judged.votes(connection, made.kind, 60)} == {2}


def test_64_clients_never_fill_more_than_the_slots(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(n) for n in range(5)], votes=3, most_votes=3)
    desk, crowd = Desk(made), [join(made, f"p{n}") for n in range(64)]

    def work(person: object) -> int:
        task = desk.claim(person)
        return 0 if task is None else int(not desk.submit(person, form(task)).surplus)

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(work, crowd)) == 15
    assert counted(made) == 15


def test_content_judgements_and_events_cannot_be_changed(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)])
    for change in ("UPDATE prompt SET text = ''", "DELETE FROM answer", "UPDATE event SET at = 0"):
        with pytest.raises(IntegrityError, match="is never changed"), made.database.writing() as connection:
            connection.execute(text(change))


def test_a_log_that_was_changed_is_found(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)])
    with made.database.writing() as connection:
        assert chain.first_broken(connection) is None
        connection.execute(text("DROP TRIGGER event_update"))
        connection.execute(text("UPDATE event SET at = 0 WHERE number = 2"))
        assert chain.first_broken(connection) == 2


def test_a_folder_without_a_study_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no study; make one with: rlhf collect new"):
        open_study(tmp_path)


@pytest.mark.parametrize("known", ["a", "b"])  # the training is passed, or closes its domain
def test_no_step_of_a_claim_or_a_submission_reads_a_whole_table(tmp_path: Path, known: str) -> None:
    rows = [pair(2, purpose="gold", known="a"), pair(3, purpose="training", known=known, domain="law")]
    made = study(tmp_path, [pair(1), pair(4, domain="law"), *rows], gold_share_first=1.0)
    seen: list[tuple[str, object]] = []
    event.listen(
        made.database.engine, "before_cursor_execute", lambda c, _, sql, given, *rest: seen.append((sql, given))
    )
    desk, ada = Desk(made), join(made, "Ada")
    while task := desk.claim(ada):
        desk.submit(ada, form(task, 1 if "good" in task.answers[0] else -1, task.token[:20]))
    with made.database.engine.connect() as connection:
        for statement, given in [one for one in seen if one[0].startswith(("SELECT", "UPDATE"))]:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given).all()
            scans = [row[3] for row in plan if row[3].startswith("SCAN") and "USING" not in row[3]]
            assert not scans or any(small in statement for small in SMALL), (scans, statement)


def test_one_person_fills_one_place_of_an_item(tmp_path: Path) -> None:
    """Ada's lease ends, Ben takes her place and skips it, while she was given another one of the same item."""
    made = study(tmp_path, [pair(1)], votes=2, lease_seconds=60)
    desk, ada, ben, cai = Desk(made), *(join(made, name) for name in ("Ada", "Ben", "Cai"))
    first = form(desk.claim(ada), 1, "first")
    made.now.tick(61)
    skipped = form(desk.claim(ben), act="skipped")
    second = form(desk.claim(ada), 1, "second")
    desk.submit(ben, skipped)
    assert not desk.submit(ada, first).surplus
    assert desk.claim(ada) is None
    assert desk.submit(ada, second).surplus
    desk.submit(cai, form(desk.claim(cai)))
    assert counted(made) == 2
