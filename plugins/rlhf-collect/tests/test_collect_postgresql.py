"""A study in PostgreSQL keeps the promises of one in SQLite: its tests, on a real server where its programs are."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import postgres
import pytest
import test_collect_desk as desk
import test_collect_forget as forget
import test_collect_hints as hints
import test_collect_kinds as kinds
import test_collect_lead as lead
import test_collect_loop as loop
import test_collect_migrate as migrate
import test_collect_quality as quality
import test_collect_safety as safety
from rlhf_collect.acquire import unopened
from rlhf_collect.settings import Settings
from rlhf_collect.simulate import join
from rlhf_collect.store import chain, judged, personal
from rlhf_collect.store.desk import Desk
from rlhf_collect.store.rows import Asked, Written
from rlhf_collect.study import ADDRESS, new_study, open_study
from sqlalchemy import create_engine, make_url, text
from studies import Browser, pair, study

from rlhf_plugins import DataError

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'rlhf-collect[postgresql]'")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(postgres.missing()), reason=postgres.missing())]

ALIKE = (
    desk.test_a_late_answer_is_kept_and_not_counted,
    desk.test_a_changed_answer_is_a_version_and_the_newest_counts,
    desk.test_content_judgements_and_events_cannot_be_changed,
    forget.test_a_deleted_person_is_gone_and_others_are_as_they_were,
    forget.test_a_deletion_that_is_killed_deletes_nothing,
    forget.test_all_that_is_kept_of_a_person_is_shown_but_secrets,
    lead.test_a_lead_sees_how_the_study_goes,
    loop.test_a_recipe_reads_a_release,
    loop.test_a_release_stays_as_it_was_made,
    migrate.test_a_migrated_study_has_the_tables_of_a_new_one,
    migrate.test_an_older_study_is_migrated_by_a_command_and_goes_on,
)
ALIKE_TOO = (
    forget.test_a_log_that_was_broken_stays_so,
    forget.test_a_release_that_counted_a_deleted_person_is_not_made_again,
    forget.test_no_link_or_session_of_a_deleted_person_lets_in,
    forget.test_places_are_open_again_and_the_next_gets_them,
    hints.test_the_shift_is_what_the_arm_that_saw_it_changed,
    kinds.test_ratings_are_averaged_by_dimension,
    lead.test_a_reviewer_gets_what_was_reported,
    loop.test_what_three_people_said_is_what_a_release_has,
    quality.test_an_item_on_which_people_are_divided_is_asked_again_up_to_7_times,
    safety.test_an_error_of_the_database_shows_no_secret,
)
PROMISES = [*ALIKE, *(pytest.param(one, marks=pytest.mark.slow) for one in ALIKE_TOO)]
Empty = Callable[[], str]


@pytest.fixture(scope="module")
def empty() -> Iterator[Empty]:
    """Makes an empty schema and returns the address that leads to it; to make a database takes longer."""
    numbers = count()
    with postgres.server() as address:
        url = make_url(address).set(drivername="postgresql+psycopg")
        admin = create_engine(url, isolation_level="AUTOCOMMIT")

        def made() -> str:
            name = f"study_{next(numbers)}"
            with admin.connect() as connection:
                connection.execute(text(f"CREATE SCHEMA {name}"))
            return address + f"&options=-csearch_path%3D{name}"

        yield made
        admin.dispose()


@pytest.fixture
def folder(empty: Empty, tmp_path: Path) -> Path:
    """A folder whose `study` will be in PostgreSQL."""
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / ADDRESS).write_text(empty())
    return tmp_path


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_what_sqlite_promises_holds(promise: Callable[[Path], None], folder: Path) -> None:
    promise(folder)


def test_64_clients_with_connections_of_their_own_give_no_vote_twice(folder: Path) -> None:
    made = study(folder, [pair(n) for n in range(5)], votes=3, most_votes=3)
    crowd = [join(made, f"p{n}") for n in range(64)]

    def work(person: object) -> int:
        mine = open_study(made.folder)  # no lock of this process is shared
        mine.now = made.now
        task = Desk(mine).claim(person)
        form = task and {"token": task.token, "key": "k", "choice": "1"}
        kept = [not Desk(mine).submit(person, form).again for _ in range(2)] if form else []
        mine.close()
        return sum(kept)

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(work, crowd)) == 15
    with made.database.reading() as connection:
        assert len(judged.votes(connection, made.kind, judged.watermark(connection))) == 15
        assert chain.first_broken(connection) is None


def test_items_that_nobody_was_given_are_found(folder: Path) -> None:
    made = study(folder, [pair(n) for n in range(3)])
    Desk(made).claim(join(made, "Ada"))
    with made.database.reading() as connection:
        assert len(list(unopened(connection))) == 2


def test_no_byte_of_a_deleted_person_is_in_a_table(folder: Path) -> None:
    made = forget.judged(folder)
    ben = forget.number_of(made, "Ben")  # whose rows come last, so that no others move over them
    tokens = [row["token"].encode() for row in migrate.rows_of(made)["lease"] if row["person"] == ben]

    def found() -> list[bytes]:
        with made.database.engine.connect() as connection:
            data = connection.scalar(text("SHOW data_directory"))
            connection.execute(text("CHECKPOINT"))
        kept = b"".join(file.read_bytes() for file in Path(data, "base").rglob("*") if file.is_file())
        return [token for token in tokens if token in kept]

    assert found() == tokens
    personal.forget(made, "Ben")
    assert found() == []


def test_the_address_is_for_its_owner_alone_and_a_database_holds_one_study(folder: Path) -> None:
    made = study(folder, [pair(1)])
    address = made.folder / ADDRESS
    assert stat.S_IMODE(address.stat().st_mode) == 0o600
    (folder / "other").mkdir()
    (folder / "other" / ADDRESS).write_text(address.read_text())
    with pytest.raises(DataError, match=r"other/study.url: the database holds a study already"):
        new_study(folder / "other", Settings())


def test_what_postgresql_cannot_hold_breaks_nothing(folder: Path) -> None:
    long = Asked("", "prompt", (Written("good", {}), Written("bad\0", {})), domain="d" * 300)
    made = study(folder, [pair(1, cluster="c" * 300)])
    assert made.add([long])[1] == {"with half a character or NUL": 1}
    browser = Browser(made, "Ada")
    browser.judge(choice="1", reason="a\0b")
    assert "Nothing is left" in browser.page


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("mysql://h/n", "no study can be kept in mysql"),
        ("nonsense", "should be postgresql://USER@HOST/NAME"),
        ("postgresql://postgres:secret@127.0.0.1:1/n", "the database cannot be used: connection"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused_without_its_password(
    tmp_path: Path, address: str, fault: str
) -> None:
    (tmp_path / ADDRESS).write_text(address)
    with pytest.raises(DataError, match=fault) as found:
        new_study(tmp_path, Settings())
    assert "secret" not in str(found.value)
