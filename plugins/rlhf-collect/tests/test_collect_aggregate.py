"""Labels from votes: by hand, against the table of the paper, and where some people answer at random."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rlhf_collect.aggregate.dawid_skene import dawid_skene, fit
from rlhf_collect.aggregate.majority import majority
from rlhf_collect.aggregate.votes import Verdict, Vote

REFERENCE = Path(__file__).parents[4] / "shared" / "reference" / "reference.json"


def votes(*labels: str) -> list[Vote]:
    return [Vote(0, person, label, None) for person, label in enumerate(labels)]


def crowd(seed: int, items: int = 1000, persons: int = 20) -> tuple[list[Vote], list[str]]:
    """Five votes an item; of the persons 30% answer at random, the others are right in 85%."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(["a", "b"], items)
    right = np.where(np.arange(persons) < 0.3 * persons, 0.5, 0.85)
    found = []
    for item in range(items):
        for person in rng.choice(persons, 5, replace=False):
            wrong = rng.random() >= right[person]
            found.append(Vote(item, int(person), "ab"[int((truth[item] == "b") ^ wrong)], None))
    return found, truth.tolist()


def test_a_majority_is_weighed_by_its_lead() -> None:
    verdict = majority(votes("a", "a", "b", "tie", "a"))[0, ""]
    assert verdict == Verdict("a", {"a": 0.6, "b": 0.2, "tie": 0.2}, 0.6, pytest.approx(0.4))


def test_two_labels_that_lead_are_no_majority() -> None:
    assert majority(votes("a", "b"))[0, ""].label is None


def test_one_step_worked_by_hand() -> None:
    # Three right of three on item 0: shares (1, 0), so p = (1, 0) and every confusion says a.
    fitted = fit(votes("a", "a", "a"), smoothing=0)
    assert fitted.labels == ["a"]
    assert fitted.posterior.tolist() == [[1.0]]


def test_a_confusion_has_a_row_for_each_true_label() -> None:
    """Two people are right about an a and a b, the third calls both a."""
    given = [
        Vote(item, person, label, None) for item, word in enumerate(("aaa", "bba")) for person, label in enumerate(word)
    ]
    fitted = fit(given, smoothing=0)
    assert fitted.confusion[2].tolist() == pytest.approx(np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert fitted.prior.tolist() == pytest.approx([0.5, 0.5])
    assert fitted.ability == pytest.approx({0: 1.0, 1: 1.0, 2: 0.5})


def test_of_labels_that_nobody_showed_people_are_right_in_three_quarters() -> None:
    """Nearly: a little of the second person's items may be c."""
    said = [(0, 0, "a"), (0, 1, "a"), (1, 0, "b"), (1, 1, "b"), (2, 0, "c")]
    fitted = fit([Vote(item, person, label, None) for item, person, label in said])
    assert fitted.confusion[1, 2].tolist() == pytest.approx([0.125, 0.125, 0.75], abs=0.02)


def test_the_table_of_the_paper() -> None:
    if not REFERENCE.exists():
        pytest.skip("the reference is not here")
    known = json.loads(REFERENCE.read_text())["dawid_skene_1979"]
    given = [
        Vote(int(item), int(person), str(label), None)
        for item, row in known["responses"].items()
        for person, labels in row.items()
        for label in labels
    ]
    fitted = fit(given, smoothing=0, tolerance=1e-14, steps=5000)
    assert fitted.prior.tolist() == pytest.approx(known["class_marginals"], abs=1e-8)
    assert fitted.confusion.ravel().tolist() == pytest.approx(np.ravel(known["error_rates"]).tolist(), abs=1e-6)
    assert (fitted.posterior.argmax(1) + 1).tolist() == known["map_class_1based"]


@pytest.mark.slow
def test_people_who_answer_at_random_are_found_and_count_less() -> None:
    shares = []
    for seed in range(5):
        given, truth = crowd(seed)
        labels = [made(given) for made in (majority, dawid_skene)]
        shares.append([np.mean([found[i, ""].label == truth[i] for i in range(1000)]) for found in labels])
        ability = fit(given).ability
        assert max(ability[person] for person in range(6)) < min(ability[person] for person in range(6, 20))
    by_majority, by_ability = np.mean(shares, axis=0)
    assert by_majority < 0.90
    assert by_ability > 0.92


def test_nothing_follows_from_no_votes() -> None:
    assert dawid_skene([]) == {}
