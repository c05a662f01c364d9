"""From weak to strong: the gap by hand, the logistic toy with random and systematic errors, labels, and the stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rlhf_transfer.labels import labelled, pairs, right, split
from rlhf_transfer.recovered import accuracy, recovered
from rlhf_transfer.weak_to_strong import scores

from rlhf_plugins import Comparison, Group, PluginError, Prediction, RankedScores, RunError, Samples, component
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

TRAINER = {"max_steps": 20, "learning_rate": 1e-2, "per_device_train_batch_size": 16, "disable_tqdm": True}
STRONG = {"stage": "reward_model", "pooling": "mean", "trainer": TRAINER}


def test_the_gap_by_hand() -> None:
    """Of 10 pairs 5, 7 and 9 are right: (0.7 - 0.5) / (0.9 - 0.5)."""
    weak, student, ceiling = (np.arange(10) < count for count in (5, 7, 9))
    one = [each.astype(float) for each in (weak, student, ceiling)]
    found = recovered(*one, np.arange(10))
    assert found.value == pytest.approx(0.5)
    assert found.low < 0.5 < found.high
    assert accuracy(one[1], np.arange(10)).value == pytest.approx(0.7)
    assert accuracy(np.ones(10), np.arange(10)) == pytest.approx((1.0, 10 / (10 + 1.959964**2), 1.0))  # Wilson's


def test_without_a_gap_nothing_can_be_recovered() -> None:
    same = np.ones(10)
    assert np.isnan(recovered(same, same, same, np.arange(10)).value)
    barely = np.r_[np.ones(99), 0.0]
    assert np.isnan(recovered(barely, barely, np.ones(100), np.arange(100)).value)  # 1 pair is no gap to speak of


@pytest.mark.slow
def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(0), 0
    for seed in range(60):
        weak, student, ceiling = (rng.random(120) < share for share in (0.5, 0.7, 0.9))
        found = recovered(*(each.astype(float) for each in (weak, student, ceiling)), np.arange(120), seed)
        held += found.low <= 0.5 <= found.high
    assert held / 60 == pytest.approx(0.95, abs=0.06)


def learned(x: torch.Tensor, y: torch.Tensor, loss: Any) -> torch.Tensor:
    """The weights of a linear reward of pairs with features y x, by L-BFGS."""
    w = torch.zeros(x.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS([w], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        gap = (x * y[:, None]) @ w
        scores = RankedScores.of(torch.stack([gap, torch.zeros_like(gap)], 1))
        value: torch.Tensor = loss(scores).mean() + (w @ w) / (2 * len(x))
        value.backward()
        return value

    solver.step(closure)  # type: ignore[no-untyped-call]
    return w.detach()


def toy(errors: float | None, seed: int) -> tuple[float, float, float]:
    """Accuracies of teacher, student and ceiling: 20 normal features, 4,000 labels, one linear truth.

    The teacher errs at random, or, where `errors` is None, always where it sees the first ten features alone.
    """
    draw = torch.Generator().manual_seed(seed)
    truth, x = torch.randn(20, generator=draw), torch.randn(4000, 20, generator=draw)
    y = (x @ truth).sign()
    if errors is None:
        taught = torch.where(torch.arange(20) < 10, truth, torch.zeros(20))
        labels = (x @ taught).sign()
    else:
        taught, labels = truth, y * torch.where(torch.rand(4000, generator=draw) < errors, -1.0, 1.0)
    loss = component("reward_loss", "bradley_terry")

    def known(w: torch.Tensor) -> float:
        return 1 - float(torch.arccos((w @ truth / w.norm() / truth.norm()).clamp(-1, 1))) / np.pi

    weak = known(taught) if errors is None else 1 - errors
    return weak, known(learned(x, labels, loss)), known(learned(x, y, loss))


SLOW = [pytest.param(*each, marks=pytest.mark.slow) for each in ((0.1, 0.81), (0.4, 0.68))]


@pytest.mark.parametrize(("errors", "expected"), [(0.25, 0.82), (None, 0.0), *SLOW])
def test_random_errors_are_averaged_out_and_systematic_ones_are_learned(errors: float | None, expected: float) -> None:
    gaps = [(student - weak) / (ceiling - weak) for weak, student, ceiling in (toy(errors, seed) for seed in range(12))]
    assert np.mean(gaps) == pytest.approx(expected, abs=0.05)


def test_a_label_is_the_order_of_the_rewards() -> None:
    group = Group("p", ("a", "b", "c"), compared=(Comparison(0, 1), Comparison(1, 2), Comparison(0, 2)))
    (found,) = labelled([group], [[1.0, 2.0, 1.0]], soft=True)
    assert [(one.better, one.worse) for one in found.comparisons] == [(1, 0), (1, 2)]  # the first and last are equal
    assert found.comparisons[0].probability == pytest.approx(1 / (1 + np.exp(-1)))
    assert labelled([group], [[0.0, 0.0, 0.0]], soft=False) == []


def test_pairs_are_judged_by_the_true_reward_where_it_is_known() -> None:
    groups = [Group("p", ("a", "b"), (0, 1), gold=(1.0, 3.0)), Group("q", ("a", "b"), (0, 1), gold=(2.0, 2.0))]
    found = pairs(groups, by_gold=True)
    assert found.places == [(0, 1, 0)]
    assert found.kept.tolist() == [0.0]
    assert right(found, [[1.0, 2.0], []]).tolist() == [1.0]
    assert pairs(groups, by_gold=False).places == [(0, 0, 1), (1, 0, 1)]


def test_parts_share_no_prompt() -> None:
    groups = [Group(f"p{i % 10}", ("a", "b"), (0, 1)) for i in range(40)]
    first, rest = split(groups, 0.3, 0)
    assert (len(first), len(rest)) == (12, 28)
    assert not {group.prompt for group in first} & {group.prompt for group in rest}


def test_the_stage_reports_three_accuracies_and_the_gap(tmp_path: Path) -> None:
    weak = {"stage": "reward_model", "pooling": "mean", "trainer": {**TRAINER, "max_steps": 1, "learning_rate": 1e-5}}
    stage = component("stage", "weak_to_strong", weak=weak, strong=STRONG, loss={"use": "weak_to_strong", "warmup": 8})
    made = stage.run(tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run", tiny_pairs(96)))
    assert made.metrics["weak"]["value"] < 0.75 < made.metrics["ceiling"]["value"]
    assert [row["model"] for row in made.sections[0].rows] == ["weak", "student", "ceiling", "PGR"]
    assert (tmp_path / "run" / "student" / "model").is_dir()


@pytest.mark.slow
def test_random_errors_of_people_are_recovered_from(tmp_path: Path) -> None:
    """Every fourth label of the tiny pairs is wrong; a strong model of 128 of them orders more than 3/4 rightly."""
    turned = [replace(pair, ranks=(1, 0)) if i % 4 == 0 else pair for i, pair in enumerate(tiny_pairs(128))]
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run", turned)
    made = component("stage", "weak_to_strong", strong=STRONG).run(run)
    assert made.metrics["student"]["value"] > 0.8
    assert made.metrics["ceiling"]["value"] > 0.8


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weak: should be a stage that makes a reward"):
        type(component("stage", "weak_to_strong"))(strong=component("stage", "sft"), weak=component("stage", "sft"))
    for options in ({"share": 0.25}, {"soft": False}):
        with pytest.raises(PluginError, match="share, soft: are of the labels of a stage `weak`"):
            component("stage", "weak_to_strong", **options)
    with pytest.raises(PluginError, match="strong: data: its rows are a part of those of this stage"):
        component("stage", "weak_to_strong", strong={**STRONG, "data": {"format": "sandbox"}})
    groups = [Group(g.prompt, g.responses, g.ranks) for g in tiny_pairs(8)]
    with pytest.raises(RunError, match="give a stage as `weak`"):
        component("stage", "weak_to_strong").run(tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run", groups))


def test_few_prompts_have_the_intervals_of_student() -> None:
    """Four prompts with four pairs each, of which 3, 2, 2 and 3 are right: 10 of 16, deviations of 1/2 pair."""
    student, prompts = np.repeat([1.0, 0.0] * 4, [3, 1, 2, 2, 2, 2, 3, 1]), np.repeat(np.arange(4), 4)
    wide = 3.182446 * (4 / 3 * 4 / 4) ** 0.5 / 16
    by_hand = pytest.approx((0.625, 0.625 - wide, 0.625 + wide), abs=1e-6)
    assert accuracy(student, prompts) == by_hand
    assert recovered(np.zeros(16), student, np.ones(16), prompts) == by_hand
    assert np.isnan(accuracy(np.array([1.0, 0.0]), np.zeros(2, dtype=np.int64))[1:]).all()


def test_the_responses_of_a_row_are_compared_with_one_another_alone() -> None:
    """Both rows are to one prompt; a judge that compares would rank the second pair beside the first."""

    class Ranks:
        def encode(self, asked: Any, texts: Any) -> Samples:
            return Samples([group.prompt for group in asked], texts, [[0]] * len(texts), [[0]] * len(texts))

        def predict(self, samples: Samples) -> Prediction:
            rows = list(zip(samples.groups(), map(len, samples.responses), strict=True))
            return Prediction(torch.tensor([float(sum(o > e for at, e in rows if at == row)) for row, o in rows]))

    run: Any = SimpleNamespace(open=lambda *_: Ranks())
    groups = [Group("p", ("aaaa", "aaa")), Group("p", ("a", "aa"))]
    assert scores(run, {}, groups) == [[1.0, 0.0], [0.0, 1.0]]
