"""Coefficients against tables worked by hand, published figures, and libraries where they are installed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rlhf_collect.aggregate.votes import Vote
from rlhf_collect.agreement.coefficients import cohen, fleiss, gwet, krippendorff
from rlhf_collect.agreement.counts import Counts, confusion, count
from rlhf_collect.agreement.couples import couples
from rlhf_collect.agreement.intervals import bootstrap
from rlhf_collect.reporting import _couples
from rlhf_collect.simulate import join
from rlhf_collect.store.desk import Desk
from rlhf_collect.summary import summarise
from sklearn.metrics import cohen_kappa_score
from studies import Never, pair, study

SHARED = Path(__file__).parents[4] / "shared"
WIKIPEDIA = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]
CODERS = [  # Krippendorff 2011, four coders and twelve units
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


def rows(name: str) -> list[dict[str, Any]]:
    file = SHARED / "data" / f"{name}.jsonl.gz"
    if not file.exists():
        pytest.skip(f"{file.name} is not here")
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).decode().splitlines()]


def labels(name: str) -> list[list[str]]:
    return [[one["label"] for one in row["annotations"]] for row in rows(name)]


def units() -> Counts:
    return count([label for label in unit if label is not None] for unit in zip(*CODERS, strict=True))


def test_cohens_kappa_of_a_table_worked_by_hand() -> None:
    table = np.array([[20.0, 5.0], [10.0, 15.0]])  # observed 35/50, expected (25 30 + 25 20) / 50^2 = 1/2
    assert cohen(table) == pytest.approx((0.7 - 0.5) / 0.5)


@pytest.mark.parametrize(("weighting", "expected"), [("plain", 0.4841628959), ("linear", 0.4701195219)])
def test_cohens_kappa_of_the_sas_manual(weighting: Any, expected: float) -> None:
    assert cohen(np.array([[0.0, 4, 1], [0, 8, 0], [0, 1, 5]]), weighting) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("ours", "theirs"), [("plain", None), ("linear", "linear"), ("quadratic", "quadratic")])
def test_cohens_kappa_is_scikit_learns(ours: Any, theirs: str | None) -> None:
    first, second = np.random.default_rng(0).integers(5, size=(2, 300)).tolist()
    expected = cohen_kappa_score(first, second, weights=theirs)
    assert cohen(confusion(first, second, range(5)), ours) == pytest.approx(expected, abs=1e-9)


def test_the_couple_that_agrees_least_comes_first() -> None:
    """Ada and Cai: of 10 answers 7 are the same, by chance 5; Ada and Dan have 9 in common, Ben always says a."""
    answers = {1: "aaaaabbbbb", 2: "aaaaaaaaaa", 3: "aaaabbbbaa", 4: "aaaabbbba"}
    votes = [Vote(item, who, label, 1) for who, labels in answers.items() for item, label in enumerate(labels)]
    found = couples(votes, voted=True)
    assert [(one.first, one.second, one.answers) for one in found] == [(1, 2, 10), (2, 3, 10), (1, 3, 10)]
    assert [one.kappa for one in found] == pytest.approx([0, 0, (0.7 - 0.5) / 0.5])
    people = [SimpleNamespace(id=1, name="Ada"), SimpleNamespace(id=2, name="Ben")]
    summary: Any = SimpleNamespace(couples=found[:1], people=people)
    assert list(_couples(summary)) == ["Ada and Ben: kappa 0.00 of 10 answers"]
    assert couples([replace(vote, label="a") for vote in votes], voted=True) == ()


def test_ratings_that_are_one_apart_agree_more_than_those_that_are_five_apart() -> None:
    """With squares: 1 less (ten times 1) over the mean square of all pairs of ours and theirs, 100 of them."""
    ours, theirs = [1, 1, 2, 2, 3, 3, 4, 4, 5, 5], [2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    votes = [
        Vote(item, who, str(value), value, part=f"kind_{item % 2}")
        for who, values in ((1, ours), (2, theirs))
        for item, value in enumerate(values)
    ]
    chance = np.subtract.outer(np.array(ours), np.array(theirs)) ** 2
    (one,) = couples(votes, voted=False)
    assert (one.dimension, one.answers, one.kappa) == ("kind", 10, pytest.approx(1 - 1 / chance.mean()))


def test_fleiss_kappa_of_the_textbook() -> None:
    assert fleiss(Counts(np.array(WIKIPEDIA, float), tuple("abcde"))) == pytest.approx(0.2099307044, abs=1e-9)


def test_fleiss_kappa_is_statsmodels() -> None:
    inter_rater = pytest.importorskip("statsmodels.stats.inter_rater")
    table = np.random.default_rng(0).multinomial(5, [0.5, 0.3, 0.2], size=200)
    expected = inter_rater.fleiss_kappa(table)
    assert fleiss(Counts(table.astype(float), ("a", "b", "c"))) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("level", "expected"), [("nominal", 0.7434210526), ("ordinal", 0.8153875038), ("interval", 0.8491071429)]
)
def test_alpha_of_krippendorff_2011_with_labels_missing(level: Any, expected: float) -> None:
    assert krippendorff(units(), level) == pytest.approx(expected, abs=1e-9)


def test_ac1_of_a_table_worked_by_hand() -> None:
    # Gwet 2008, table 1: two annotators, 118 and 2 of 125 together, 5 apart. Shares 243.../250.
    items = [("+", "+")] * 118 + [("+", "-")] * 5 + [("-", "-")] * 2
    share = (118 + 5 / 2) / 125
    expected = 2 * share * (1 - share)
    assert gwet(count(items)) == pytest.approx((120 / 125 - expected) / (1 - expected))


def test_a_label_without_another_says_how_frequent_it_is() -> None:
    """Gwet 2008: 2 of 3 pairs agree; + has the share (1 + 1 + 1/2 + 0) / 4 of all labelled items."""
    found = gwet(count([("+", "+"), ("+", "+"), ("+", "-"), ("-",)]))
    expected = 2 * 0.625 * 0.375
    assert found == pytest.approx((2 / 3 - expected) / (1 - expected))


def test_agreement_of_the_published_annotators() -> None:
    found = labels("instructions_three_annotators")
    names = ("a", "b", "tie")
    columns = list(zip(*found, strict=True))
    kappas = [cohen(confusion(columns[i], columns[j], names)) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert kappas == pytest.approx([0.852, 0.879, 0.862], abs=5e-4)
    assert fleiss(count(found)) == pytest.approx(0.864175365, abs=1e-9)
    assert krippendorff(count(found)) == pytest.approx(0.864220685, abs=1e-9)


@pytest.mark.parametrize("statistic", [fleiss, gwet, lambda counts, times: krippendorff(counts, "nominal", times)])
def test_an_item_that_counts_twice_is_there_twice(statistic: Callable[..., float]) -> None:
    table = np.array(WIKIPEDIA, float)
    twice = Counts(np.vstack([table, table[:3]]), tuple("abcde"))
    times = np.array([2.0] * 3 + [1.0] * 7)
    assert statistic(Counts(table, tuple("abcde")), times) == pytest.approx(statistic(twice, np.ones(13)))


def test_an_interval_is_that_of_the_items_or_of_their_clusters() -> None:
    """A share of 0.3 of 100 items varies by sqrt(0.21 / 100); of 100 items that come as one, by nothing."""
    table = np.eye(2)[[0] * 30 + [1] * 70]

    def share(counts: Counts, times: Any) -> float:
        return float(counts.table[:, 0] @ times / times.sum())

    found = bootstrap(share, Counts(table, ("a", "b")))
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.21, 0.39), abs=0.015)
    whole = bootstrap(share, Counts(table, ("a", "b"), ("one",) * 100), samples=20)
    assert (whole.low, whole.high) == pytest.approx((0.3, 0.3))
    assert np.isnan(bootstrap(share, Counts(table[:0], ("a", "b"))).value)


@pytest.mark.slow
def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng, truth, held = np.random.default_rng(0), 0.36, 0  # each right with .8, of two equal labels: kappa (2 .8 - 1)^2
    for seed in range(60):
        right = rng.random((150, 3)) < 0.8
        items = rng.integers(2, size=(150, 1)) ^ ~right
        found = bootstrap(fleiss, count(items.tolist()), seed, 200)
        held += found.low <= truth <= found.high
    assert held >= 51  # 57 expected


def test_no_agreement_can_be_computed_of_one_category() -> None:
    assert np.isnan([fleiss(count([("a", "a")])), krippendorff(count([("a", "a")])), gwet(count([("a", "a")]))]).all()


def test_agreement_is_not_of_items_that_people_agree_on(tmp_path: Path) -> None:
    """Three people agree on three items, and two of them on the last, which then gets a further vote."""
    made = study(tmp_path, [pair(number) for number in range(4)], votes=3, most_votes=4)
    desk, said = Desk(made, Never()), {"Ada": [1, 1, -1, 1], "Ben": [1, 1, -1, 1], "Cai": [1, 1, -1, -1], "Dan": [1]}
    for name, choices in said.items():
        person = join(made, name)
        for number, choice in enumerate(choices):
            task = desk.claim(person)
            assert task
            left = choice if task.answers[0].startswith("<p>good") else -choice
            desk.submit(person, {"token": task.token, "key": f"{number}", "choice": str(left)})
    found = summarise(made, 10)
    assert found.votes == 13
    # pairs that agree: (1 + 1 + 1 + 1/3) / 4; labels: 8 of 12 a, 4 of 12 b
    assert found.agreement["kappa"].value == pytest.approx((10 / 12 - 5 / 9) / (1 - 5 / 9))
