"""A model's suggestions: never seen before an answer, never a vote; a control arm, and the shift that they cause."""

from __future__ import annotations

from pathlib import Path
from random import Random

from rlhf_collect import release as releases
from rlhf_collect.simulate import join
from rlhf_collect.store import hints
from rlhf_collect.store.desk import Desk
from rlhf_collect.study import Study
from rlhf_collect.suggest import keep
from rlhf_collect.summary import summarise
from studies import Browser, Never, pair, prefers_good, study


class Always(Random):
    """Draws no gold item, and always the arm that is shown."""

    def random(self) -> float:
        return 0.4


def suggested(folder: Path, count: int, value: int = -1) -> Study:
    made = study(folder, [pair(n) for n in range(count)], votes=1)
    keep(made, dict.fromkeys(range(1, count + 1), value), "runs/a")
    return made


def test_a_suggestion_comes_after_the_answer_and_is_no_vote(tmp_path: Path) -> None:
    made = suggested(tmp_path, 6)
    browser = Browser(made, "Ada")
    browser.desk.random = Random(1)
    shown = 0
    while 'id="judge"' in browser.page:
        browser.judge(choice=str(prefers_good(browser.shown())))
        shown += "a model suggests" in browser.page
    assert 0 < shown < 6
    rows = releases.make(made, releases.Parameters(test_fraction=0.0)).rows
    assert [one.verdicts[""].label for one in rows] == ["a"] * 6


def test_the_shift_is_what_the_arm_that_saw_it_changed(tmp_path: Path) -> None:
    made = suggested(tmp_path, 40)
    desk, ada = Desk(made, Random(0)), join(made, "Ada")
    while task := desk.claim(ada):
        made.now.tick(60)
        form = {"token": task.token, "choice": "1" if "good" in task.answers[0] else "-1"}
        taken = desk.submit(ada, {**form, "key": task.token[:20]})
        if taken.hint:  # follows the suggestion
            desk.submit(ada, {**form, "key": task.token[20:40], "choice": taken.hint["choice"]})
    found = summarise(made, 2).shift
    assert found["shown"].answers + found["control"].answers == 40
    assert (found["shown"].before, found["shown"].after) == (0.0, 1.0)
    assert (found["control"].before, found["control"].after) == (0.0, 0.0)


def test_rows_say_how_many_votes_followed_a_suggestion(tmp_path: Path) -> None:
    made = suggested(tmp_path, 1)
    desk, ada = Desk(made, Always(0)), join(made, "Ada")
    task = desk.claim(ada)
    assert task
    assert desk.submit(ada, {"token": task.token, "key": "a", "choice": "3"}).hint
    desk.submit(ada, {"token": task.token, "key": "b", "choice": "-3"})
    (one,) = releases.make(made, releases.Parameters(test_fraction=0.0)).rows
    assert one.provenance()["after_suggestion"] == 1


def test_an_answer_that_is_given_again_followed_nothing(tmp_path: Path) -> None:
    made = suggested(tmp_path, 1)
    desk, ada = Desk(made, Always(0)), join(made, "Ada")
    task = desk.claim(ada)
    assert task
    for key, choice in (("a", "3"), ("b", "-3"), ("c", "2")):
        desk.submit(ada, {"token": task.token, "key": key, "choice": choice})
    (one,) = releases.make(made, releases.Parameters(test_fraction=0.0)).rows
    assert one.provenance()["after_suggestion"] == 0


def test_without_suggestions_there_is_no_arm(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(1)])
    desk, ada = Desk(made, Never()), join(made, "Ada")
    task = desk.claim(ada)
    assert task
    assert desk.submit(ada, {"token": task.token, "key": "a", "choice": "3"}).hint is None
    with made.database.reading() as connection:
        assert hints.shift(connection, made.kind) == {}
