"""Steps on how much rows count, by hand."""

from __future__ import annotations

from math import exp
from pathlib import Path
from typing import Any

import pytest
from torch import tensor

from rlhf_plugins import DataError
from rlhf_plugins.contract.rows import Comparison, Data, Group
from rlhf_plugins.data.columns import columns_of
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base, tiny_run

A, B, TIE = Comparison(0, 1), Comparison(1, 0), Comparison(0, 1, tied=True)


def step(name: str, groups: list[Group], seed: int = 0, **options: Any) -> Data:
    return component("data_step", {"use": name, **options})(Data(tuple(groups)), seed)


def voted(name: str, *votes: Comparison, **more: Any) -> Group:
    return Group(name, ("yes", "no"), compared=votes, **more)


def topics(**counts: int) -> list[Group]:
    return [Group(f"{name} {i}", ("yes",), topic=name) for name, count in counts.items() for i in range(count)]


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, (5, 5)), (0.5, (7, 3)), (1.0, (8, 2))])
def test_topics_are_balanced_as_worked_by_hand(alpha: float, expected: tuple[int, int]) -> None:
    found = step("balanced", topics(sums=8, birds=2), alpha=alpha)  # sqrt 8 : sqrt 2 is 2 : 1, of 10 rows 7 and 3
    names = [group.topic for group in found.train]
    assert (names.count("sums"), names.count("birds")) == expected
    assert found.dropped == ({"balanced: of the topic sums": 8 - expected[0]} if alpha < 1 else {})


def test_labels_are_balanced_and_one_class_is_refused() -> None:
    rows = [Group(f"q{i}", ("yes",), label=i > 0) for i in range(4)]
    assert [group.label for group in step("balanced", rows, by="label").train] == [False, False, True, True]
    with pytest.raises(DataError, match="all rows have one topic"):
        step("balanced", rows)


def test_agreement_is_the_first_verdict_less_the_next() -> None:
    rows = [voted("3 to 1", A, A, A, B), voted("2 to 1", A, A, B), voted("2 ties", TIE, TIE, A, B), voted("1", A)]
    assert [g.prompt for g in step("agreed", rows, least=0.5).train] == ["3 to 1", "1"]  # 2/4, 1/3, 1/4, 1
    assert step("agreed", rows, least=0.5).dropped == {"agreed: little agreement": 2}


def test_a_weight_that_votes_have_become_is_their_agreement() -> None:
    rows = [Group("q", ("yes", "no"), (0, 1), weight=weight) for weight in (0.2, 0.6)]
    assert [group.weight for group in step("agreed", rows).train] == [0.6]


def test_a_soft_label_agrees_as_far_as_it_is_from_half() -> None:
    """|2p - 1| is 0.1, 0.8 and 0.8; votes of 0.9 and 0.2 are 1.1 to 0.9 of 2."""
    soft = {p: Comparison(0, 1, probability=p) for p in (0.55, 0.9, 0.1, 0.2)}
    rows = [voted(str(p), soft[p]) for p in (0.55, 0.9, 0.1)]
    assert [g.prompt for g in step("agreed", rows, least=0.5).train] == ["0.9", "0.1"]
    found = step("difficulty", [voted("q", soft[0.9], soft[0.2]), voted("r", A)])
    assert [group.difficulty for group in found.train] == [pytest.approx(0.9), 0.0]


def test_a_ranking_keeps_the_judgements_that_are_agreed_on() -> None:
    row = Group("q", ("a", "b", "c"), compared=(Comparison(0, 1, weight=0.9), Comparison(1, 2, weight=0.1)))
    found = step("agreed", [row])
    assert found.train[0].comparisons == (Comparison(0, 1, weight=0.9),)
    assert found.dropped == {"agreed: pair of little agreement in a row that stays": 1}


def test_what_earlier_steps_left_out_stays_counted() -> None:
    data = Data((voted("q", A, A, B), voted("r", A)), dropped={"repeated row": 2})
    for _ in range(2):
        data = component("data_step", {"use": "agreed"})(data, 0)
    assert data.dropped == {"repeated row": 2, "agreed: little agreement": 1}


def test_difficulty_of_votes_margins_and_ratings() -> None:
    rows = [voted("q", A, A, A, B), voted("r", A), voted("s", A, difficulty=9.0)]
    assert [group.difficulty for group in step("difficulty", rows).train] == [0.5, 0.0, 9.0]
    rows = [Group("q", ("a", "b"), (0, 1), margin=m, ratings={"r": (m + 2, 1.0)}) for m in (1.0, 3.0)]
    assert [group.difficulty for group in step("difficulty", rows, by="margin").train] == [-1.0, -3.0]
    assert [group.difficulty for group in step("difficulty", rows, by="ratings").train] == [-2.0, -4.0]
    assert "difficulty" in columns_of(step("difficulty", rows, by="margin").train)


def test_equal_difficulties_are_refused() -> None:
    rows = [voted("q", A), voted("r", A)]
    for name in ("difficulty", "repeat_hard", "weigh_hard"):
        with pytest.raises(DataError, match="no two rows differ"):
            step(name, rows)


def hard() -> list[Group]:
    """Of difficulties -1 and 1 in standard deviations."""
    return [Group(f"q{i}", ("yes",), difficulty=4.0 + 2 * (i % 2)) for i in range(8)]


def test_hard_rows_are_repeated_in_proportion() -> None:
    found = step("repeat_hard", hard(), alpha=1.0)
    times = [[group.prompt for group in found.train].count(f"q{i}") for i in range(8)]
    share = exp(1) / (exp(1) + exp(-1))  # .881: each hard row is there 1.76 times, each easy one .24 times
    assert sum(times) == 8
    assert sum(times[1::2]) in (int(8 * share), int(8 * share) + 1)
    assert set(times) <= {0, 1, 2}
    assert found.dropped == {"repeat_hard: easy": times.count(0)}


def test_hard_rows_weigh_more_and_the_mean_stays() -> None:
    found = step("weigh_hard", [*hard(), Group("q8", ("yes",), weight=2.0)], alpha=1.0)
    total = 4 * exp(1) + 4 * exp(-1) + 1  # the last row has the mean difficulty
    expected = [exp(1 if i % 2 else -1) * 9 / total for i in range(8)]
    assert [group.weight for group in found.train] == pytest.approx([*expected, 2 * 9 / total])


def test_difficulty_by_loss_is_of_the_tokens_of_the_best_response(tmp_path: Path) -> None:
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run")
    policy = component("generator", "base").build(run)

    def loss(prompt: str, response: str) -> float:
        samples = policy.encode([prompt], [response])
        before, ids = list(samples.prompt_ids[0]), list(samples.response_ids[0])
        logits = [policy.next_logits(tensor([before + ids[:t]]))[0][0] for t in range(len(ids))]
        return -sum(float(each.log_softmax(-1)[i]) for each, i in zip(logits, ids, strict=True)) / len(ids)

    rows = [Group("how\n", ("ant", "bee cat dog"), (1, 0)), Group("who\n"), Group("is\n", ("elk",), difficulty=7.0)]
    found = component("data_step", {"use": "difficulty_by_loss", "policy": "base"}).build(run)(Data(tuple(rows)), 0)
    assert [group.difficulty for group in found.train] == [pytest.approx(loss("how\n", "bee cat dog")), None, 7.0]
