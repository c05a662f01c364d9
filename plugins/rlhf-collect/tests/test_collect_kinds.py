"""What people are asked: each kind from the form to the rows that a loss reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rlhf_collect import release as releases
from rlhf_collect.aggregate.davidson import fit
from rlhf_collect.export import write
from rlhf_collect.kinds.base import Kind, Unreadable
from rlhf_collect.kinds.pair import Pair
from rlhf_collect.kinds.ranking import Ranking
from rlhf_collect.kinds.rating import Rating
from rlhf_collect.store.rows import Asked, Written
from rlhf_collect.summary import summarise
from studies import Browser, pair, study

from rlhf_plugins import Base, DataError, check_recipe, component

ANSWERS = ("best", "middle", "worst")
VALUES: list[tuple[Kind, object, list[int]]] = [
    (Pair(), -4, [1, 0]),
    (Ranking(), [2, 1, 2], [2, 0, 1]),
    (Rating(("helpful", "honest")), {"helpful": [7, 1], "honest": [3, 4]}, [1, 0]),
]


def rows(count: int) -> list[Asked]:
    return [Asked("", f"prompt {n}", tuple(Written(text, {}) for text in ANSWERS)) for n in range(count)]


@pytest.mark.parametrize(("kind", "value", "sides"), VALUES, ids=lambda one: getattr(one, "name", ""))
def test_a_form_that_is_shown_again_is_read_as_it_was(kind: Kind, value: object, sides: list[int]) -> None:
    assert kind.read(kind.shown(value, sides), sides) == value


def test_places_without_gaps_are_read_in_the_items_order() -> None:
    form = {"place_0": "3", "place_1": "1", "place_2": "3"}  # shown: answers 2, 0, 1
    assert Ranking().read(form, [2, 0, 1]) == [1, 2, 2]
    with pytest.raises(Unreadable, match="place_2 should be a whole number from 1 to 3"):
        Ranking().read({**form, "place_2": "4"}, [2, 0, 1])


def test_scores_of_two_answers_worked_by_hand() -> None:
    found = fit([(0, 1, "a")] * 3 + [(0, 1, "b")], 2, deviation=100.0)
    assert found.scores[0] - found.scores[1] == pytest.approx(1.0986, abs=1e-3)  # log 3
    even = fit([(0, 1, "a"), (0, 1, "b"), (0, 1, "tie"), (0, 1, "tie")], 2, deviation=100.0)
    assert even.nu == pytest.approx(2.0, abs=1e-3)  # nu / (2 + nu) = 1/2
    assert even.scores.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_rankings_of_two_people_become_ranks(tmp_path: Path) -> None:
    made = study(tmp_path, rows(2), kind="ranking", votes=2)
    for name in ("Ada", "Ben"):
        browser = Browser(made, name)
        while shown := browser.texts():
            browser.judge(**{f"place_{n}": str(ANSWERS.index(text) + 1) for n, text in enumerate(shown)})
    releases.make(made, releases.Parameters(test_fraction=0.0))
    source = {"format": "collected", "source": str(made.folder)}
    group = component("data_format", "collected", source=str(made.folder)).load(Base("sandbox"), 0).train[0]
    assert (group.responses, group.ranks, group.weight) == (ANSWERS, (0, 1, 2), 1.0)
    stages = [{"stage": "reward_model", "loss": "plackett_luce"}]
    check_recipe({"base": "sandbox", "data": source, "stages": stages})


def test_ratings_are_averaged_by_dimension(tmp_path: Path) -> None:
    made = study(tmp_path, rows(1), kind="rating", dimensions=("helpful", "honest"), votes=2)
    for name, helpful in (("Ada", 7), ("Ben", 4)):
        browser = Browser(made, name)
        shown = browser.texts()
        rated = {f"helpful_{n}": str(helpful - ANSWERS.index(text)) for n, text in enumerate(shown)}
        browser.judge(**rated, **{f"honest_{n}": "4" for n in range(3)})
    releases.make(made, releases.Parameters(test_fraction=0.0))
    group = component("data_format", "collected", source=str(made.folder)).load(Base("sandbox"), 0).train[0]
    with pytest.raises(DataError, match="votes: apart is of pairs and rankings"):
        component("data_format", "collected", source=str(made.folder), votes="apart").load(Base("sandbox"), 0)
    assert group.ratings == {"helpful": (5.5, 4.5, 3.5), "honest": (4.0, 4.0, 4.0)}
    write(releases.load(made, 1), tmp_path)
    row = json.loads((tmp_path / "train.jsonl").read_text())
    assert row["responses"][0] == {"text": "best", "helpful": 5.5, "honest": 4.0}


def test_an_unknown_kind_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown kind 'pairs' \(did you mean pair\?"):
        study(tmp_path, [], kind="pairs")
    with pytest.raises(DataError, match="a pair has no dimensions"):
        study(tmp_path, [], kind="pair", dimensions=("helpful",))


@pytest.mark.parametrize(
    ("kind", "gold", "words"),
    [
        ("pair", "a", "rows:1: gold is of at most 2 different responses, got 3"),
        ("ranking", [1, 2, 3, 4], "rows:1: gold should be a list with the place of each of 3 responses"),
        ("rating", {"overall": [1, 2]}, "rows:1: gold should have 3 ratings of overall, 1 to 7"),
        ("rating", {"overall": [1, 2, 8]}, "rows:1: gold should have 3 ratings of overall, 1 to 7"),
    ],
)
def test_a_known_answer_is_of_the_rows_responses(tmp_path: Path, kind: str, gold: object, words: str) -> None:
    row = Asked("rows:1", "p", tuple(Written(text, {}) for text in ANSWERS), purpose="gold", known=gold)
    with pytest.raises(DataError, match=words):
        study(tmp_path, [row], kind=kind)


def test_the_files_of_a_release_are_read_by_the_bundled_formats(tmp_path: Path) -> None:
    made = study(tmp_path, rows(6), kind="ranking", votes=1)
    browser = Browser(made, "Ada")
    while shown := browser.texts():
        browser.judge(**{f"place_{n}": str(ANSWERS.index(text) + 1) for n, text in enumerate(shown)})
    write(releases.make(made, releases.Parameters(test_fraction=0.0)), tmp_path)
    data = component("data_format", "rankings", source=str(tmp_path / "train.jsonl")).load(Base("sandbox"), 0)
    assert {group.ranks for group in data.train} == {(0, 1, 2)}


def test_a_summary_counts_items_and_draws_their_parts_together(tmp_path: Path) -> None:
    made = study(tmp_path, rows(1), kind="ranking", votes=2)
    for name, places in (("Ada", "123"), ("Ben", "132")):
        browser = Browser(made, name)
        browser.judge(**{f"place_{n}": places[ANSWERS.index(text)] for n, text in enumerate(browser.texts())})
    found = summarise(made, 20)
    assert [worker.answered for worker in found.people] == [1, 1]
    alpha = found.agreement["alpha"]
    assert alpha.value == alpha.low == alpha.high  # of one item, every resample is the same


def test_agreement_of_ratings_is_that_of_numbers(tmp_path: Path) -> None:
    made = study(tmp_path, rows(1), kind="rating", votes=2)
    for name, added in (("Ada", 0), ("Ben", 1)):
        browser = Browser(made, name)
        given = {f"overall_{n}": str(2 * ANSWERS.index(text) + 1 + added) for n, text in enumerate(browser.texts())}
        browser.judge(**given)
    found = summarise(made, 10).agreement  # 1 2, 3 4, 5 6: observed (1 - 2)^2; pairs of 1..6 are 7 apart on average
    assert found["alpha"].value == pytest.approx(1 - 1 / 7)
    assert list(found) == ["alpha"]


def test_dimensions_with_other_means_are_no_agreement(tmp_path: Path) -> None:
    made = study(tmp_path, rows(1), kind="rating", dimensions=("kind", "long"), votes=2)
    for name, (first, second, third) in (("Ada", "121"), ("Ben", "211")):
        browser = Browser(made, name)
        given = {"best": first, "middle": second, "worst": third}
        low = {f"kind_{n}": given[text] for n, text in enumerate(browser.texts())}
        browser.judge(**low, **{name.replace("kind", "long"): str(int(one) + 5) for name, one in low.items()})
    found = summarise(made, 10)  # 1 2, 2 1, 1 1: observed 2/3; of all pairs of 1 1 1 1 2 2, 8 of 15 differ
    assert found.agreement["alpha of kind"].value == pytest.approx(1 - (2 / 3) / (8 / 15))
    assert found.agreement["alpha"].value == found.agreement["alpha of long"].value == pytest.approx(-0.25)
    assert found.gate is False
    assert [one.ability for one in found.people] == [None, None]


def test_ac1_knows_of_ties_that_nobody_gave(tmp_path: Path) -> None:
    made = study(tmp_path, [pair(0), pair(1)], votes=2)
    Browser(made, "Ada").work(lambda shown: 3 if shown[0].startswith("good") else -3)
    Browser(made, "Ben").work(lambda shown: 3 if shown[0] in ("good 0", "bad 1") else -3)
    # a a, a b: half agree; shares 3/4, 1/4 and 0 of three labels give (3/16 + 3/16) / 2 by chance
    assert summarise(made, 10).agreement["AC1"].value == pytest.approx((1 / 2 - 3 / 16) / (1 - 3 / 16))


def test_whoever_ties_everything_misses_a_known_order() -> None:
    known = [1, 2, 2]
    assert not Ranking().agrees([1, 1, 1], known)
    assert not Ranking().agrees([2, 1, 3], known)
    assert Ranking().agrees([1, 2, 3], known)  # a known tie is any order
    assert Ranking().agrees([1, 3, 2], known)


@pytest.mark.parametrize(("kind", "gold"), [("ranking", [1, 1, 1]), ("rating", {})])
def test_a_known_answer_that_nobody_can_miss_is_refused(tmp_path: Path, kind: str, gold: object) -> None:
    row = Asked("rows:1", "p", tuple(Written(text, {}) for text in ANSWERS), purpose="gold", known=gold)
    with pytest.raises(DataError, match="rows:1: gold .* fits every answer, so that it tells nothing of a person"):
        study(tmp_path, [row], kind=kind)
