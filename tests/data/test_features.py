"""Features of preferences against counts made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_plugins import Base, Comparison, Data, DataError, Group, component, features
from rlhf_plugins.data.measures.features import error_rate


def pair(prompt: str, better: str = "a", worse: str = "b", **more: object) -> Group:
    return Group(prompt, (better, worse), (0, 1), **more)  # type: ignore[arg-type]


def read(file: Path) -> Data:
    found: Data = component("data_format", "preference", source=str(file)).load(Base(""), seed=0)
    return found


def test_judgements_of_one_pair_are_compared() -> None:
    groups = (pair("x y"), pair("x y"), pair("x y", "b", "a"), pair("z"))
    found = features(Data(groups))
    assert found.agreement == pytest.approx(1 - 2 * 2 * 1 / (3 * 2))  # of three pairs of judgements one agrees
    assert found.noise == 0.5  # more disagreement than two annotators who guess would have
    assert found.contradictions == pytest.approx(1 / 4)


def test_rows_that_contradict_others_are_judgements_though_they_are_left_out(tmp_path: Path) -> None:
    one, other = ({"prompt": "x", "chosen": "a", "rejected": "b"}, {"prompt": "x", "chosen": "b", "rejected": "a"})
    rows = [one, one, other, {**one, "prompt": "y"}, {**one, "prompt": "y"}, {**one, "prompt": "z"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = features(read(tmp_path / "rows.jsonl"))
    assert (found.pairs, found.judged_again) == (2, 2)  # y and z; x, of which a third of judgements agree, and y
    assert found.agreement == pytest.approx((1 / 3 + 1) / 2)
    assert found.contradictions == pytest.approx(1 / 3)
    assert found.noise == pytest.approx(error_rate(1 / 3))
    assert found.noise_low is not None
    assert found.noise_low < 0.05  # two pairs say little


def test_rows_that_are_all_repeated_may_be_copies(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "x", "chosen": "a", "rejected": "b"})
    (tmp_path / "rows.jsonl").write_text(f"{row}\n{row}")
    assert features(read(tmp_path / "rows.jsonl")).agreement is None


def test_votes_are_judgements_too() -> None:
    group = Group("x", ("a", "b"), compared=(Comparison(0, 1, probability=0.75),))
    found = features(Data((group,)))
    assert found.agreement == pytest.approx(0.75**2 + 0.25**2)
    assert found.noise == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("votes", "agreement"),
    [
        ({"a": 3, "b": 1}, (3 + 0) / 6),  # of six pairs of votes three agree
        ({"b": 2, "tie": 5}, 1.0),
        ({"a": 1, "tie": 1}, None),
        ({"helpful": {"a": 2}}, None),
        ({"a": None, "b": None}, None),
        (["a", "b"], None),
    ],
)
def test_votes_that_a_column_counts_are_judgements_too(votes: object, agreement: float | None) -> None:
    found = features(Data((pair("x", columns={"votes": votes}),)))
    assert found.agreement == (agreement if agreement is None else pytest.approx(agreement))


def test_an_error_rate_is_the_inverse_of_how_often_two_disagree() -> None:
    for e in (0.0, 0.1, 0.3, 0.5):
        assert error_rate(2 * e * (1 - e)) == pytest.approx(e)


def test_strength_topics_and_length() -> None:
    groups = (
        pair("x", "long", "b", margin=2.0, topic="p"),
        pair("y", "a", "long", topic="q", ratings={"helpful": (5.0, 1.0)}),
    )
    found = features(Data(groups))
    assert (found.strength, found.topics, found.coverage, found.longer_wins) == (3.0, 2, 1.0, 0.5)


def test_what_cannot_be_seen_is_none_and_named() -> None:
    found = features(Data((pair("x"),)))
    assert set(found.unseen) >= {"agreement", "noise", "strength", "topics", "coverage"}


def test_data_without_a_preference_is_refused() -> None:
    with pytest.raises(DataError, match="no response is preferred"):
        features(Data((Group("x", ("a",)),)))
