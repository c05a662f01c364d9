"""Where a reward abstains: responses and groups that are left out, a second reward, and numbers that never appear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import tensor

from rlhf_plugins.contract.interfaces import Shaping
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rollout import ScoredResponses
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Step
from rlhf_plugins.contract.run_kinds import RewardFunction
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.trainers.ppo.options import Oversight
from rlhf_plugins.trainers.ppo.scoring import Scorer
from rlhf_plugins.trainers.watching.monitoring import Monitors

from .conftest import furthest, trained
from .online_parts import Bases, curve, logged, objective, plain, scored, trainer

RAGGED = Samples(["how"] * 3, ["x", "y", "z"], [[15]] * 3, [[3, 4, 1], [3, 4, 5, 6], [3]])


def scorer(score: RewardFunction, *shaping: Any, **options: Any) -> Scorer:
    return Scorer(plain(score), [component("shaping", words) for words in shaping], {1}, **options)


def every_third(samples: Samples) -> list[float | None]:
    """Abstains on the first response to each prompt of the tests, which have 3 responses each."""
    return [None if i % 3 == 0 else float(i % 5) for i in range(len(samples.responses))]


def test_shaping_and_means_see_no_abstention() -> None:
    """Quantiles of (5, 7) are those of 1/4 and 3/4, whatever the second row holds."""
    found = scorer(lambda _: Prediction(tensor([5.0, torch.nan, 7.0]), abstained=tensor([False, True, False])))(RAGGED)
    assert (list(found.places), found.rewards.tolist()) == ([0, 2], [5.0, 7.0])
    assert found.token_rewards.tolist() == [[0, 0, 5], [7, 0, 0]]
    shaped = scorer(lambda _: [5.0, None, 7.0], "quantile")(RAGGED).scores
    assert shaped.tolist() == pytest.approx([-0.6745, 0.6745], abs=1e-4)


@pytest.mark.parametrize(
    ("score", "other", "paid"),
    [
        (lambda _: [5.0, None, 7.0], lambda _: [2.0], [[0, 0, 5, 0], [0, 0, 0, 2], [7, 0, 0, 0]]),
        (lambda _: [[1, 2, 3], None, [4]], lambda _: [2.0], [[1, 2, 3, 0], [0, 0, 0, 2], [4, 0, 0, 0]]),
        (lambda _: [5.0, None, 7.0], lambda _: [[1, 0, 0, 1]], [[0, 0, 5, 0], [1, 0, 0, 1], [7, 0, 0, 0]]),
    ],
)
def test_a_fallback_scores_what_is_left(score: Any, other: Any, paid: Any) -> None:
    asked: list[Samples] = []
    fallback = plain(lambda samples: asked.append(samples) or other(samples))
    found = scorer(score, fallback=fallback)(RAGGED)
    assert found.token_rewards.tolist() == paid
    assert [samples.responses for samples in asked] == [["y"]]


@pytest.mark.parametrize("first", [5.0, [1.0, 2.0, 2.0]])
def test_where_the_fallback_abstains_too_the_response_is_left_out(first: Any) -> None:
    found = scorer(lambda _: [first, None, None], fallback=plain(lambda _: [None, 1.0]))(RAGGED)
    assert (list(found.places), found.rewards.tolist()) == ([0, 2], [5.0, 1.0])


def test_a_reward_that_must_not_abstain_stops() -> None:
    with pytest.raises(RunError, match="the reward abstained on 2 of 3 responses; `abstained: drop` trains without"):
        scorer(lambda _: [None, 1.0, None], abstains=False)(RAGGED)


@pytest.mark.parametrize("advantage", ["gae", "rloo", "remax"])
def test_responses_without_a_reward_are_left_out_and_counted(bases: Bases, tmp_path: Path, advantage: str) -> None:
    steps: list[Step] = []
    seen = Monitors({"guest": lambda step: steps.append(step)}, "online", tmp_path)  # type: ignore[dict-item, func-returns-value]
    found = trainer(
        bases(), tmp_path, objective(every_third, advantage=advantage), oversight=Oversight(monitors=seen), max_steps=4
    )
    before = trained(found)
    assert curve(found, "abstained") == [4.0, 4.0]
    assert logged(found, "without_baseline") == ([4.0, 4.0] if advantage == "remax" else [])  # of 4 greedy ones, 2
    assert not logged(found, "too_few_siblings")
    assert len(steps) == 2
    for step in steps:
        assert step.samples is not None
        assert len(step.samples.responses) == len(step.responses["reward"]) == (4 if advantage == "remax" else 8)
    assert furthest(trained(found), before) > 0
    sums = {"response without a reward": 8}
    if advantage == "remax":
        sums["response to a prompt whose greedy response has no reward"] = 8
    assert found.unlearned == sums


def test_groups_that_are_too_small_for_the_estimator_are_left_out(bases: Bases, tmp_path: Path) -> None:
    def score(samples: Samples) -> list[float | None]:
        return [None if i in (0, 1, 4) else float(i) for i in range(len(samples.responses))]

    found = trainer(bases(), tmp_path, objective(score, advantage="rloo"), max_steps=2)
    kept = scored(found, [f"how{' ant' * (i // 3)}" for i in range(12)])
    left_out = {"abstained": 3, "abstained_later": 0, "without_baseline": 0, "too_few_siblings": 1}
    assert (kept.sampled, kept.left_out) == (12, left_out)
    assert kept.group.tolist() == [1, 1, 2, 2, 2, 3, 3, 3]
    parts = found._rollouts.experience(kept, 0.1).parts
    assert [sum(len(each.rows) for each in part) for part in parts] == [4, 4]
    assert curve(found, "too_few_siblings") == [1.0]
    assert list(found.unlearned.values()) == [3, 1]


@pytest.mark.parametrize("reduction", ["tokens", "responses", {"use": "constant", "length": 6}])
@pytest.mark.slow
def test_a_minibatch_without_any_response_is_skipped(bases: Bases, tmp_path: Path, reduction: Any) -> None:
    """Of 12 responses one has a reward, and so the first of two optimizer steps learns from one response."""

    def one(samples: Samples) -> list[float | None]:
        return [1.0] + [None] * (len(samples.responses) - 1)

    found = trainer(bases(), tmp_path, objective(one, reduction=reduction), max_steps=4)
    assert curve(found, "skipped") == [0.0, 1.0, 0.0, 1.0]
    halves = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "steps_per_generation": 4}
    other = trainer(bases(), tmp_path, objective(one, reduction=reduction), max_steps=4, **halves)
    assert curve(other, "skipped") == [0.0, 1.0, 0.0, 1.0]
    assert logged(other, "grad_norm")[0] == pytest.approx(logged(found, "grad_norm")[0], rel=1e-3)


def test_a_rollout_without_any_reward_is_skipped(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(), tmp_path, objective(lambda s: [None] * len(s.responses)))
    before = trained(found)
    assert curve(found, "skipped") == [1.0] * 6
    assert logged(found, "abstained") == [12.0] * 3
    assert not logged(found, "reward")
    assert furthest(trained(found), before) == 0


class Spread(Shaping):
    """Pays the score evenly over a response's tokens."""

    def __call__(self, scored: ScoredResponses) -> Any:
        mask = torch.arange(int(scored.lengths.max())) < scored.lengths.unsqueeze(1)
        return mask * (scored.scores / scored.lengths).unsqueeze(1)


def test_a_shaping_may_pay_each_token() -> None:
    """A later shaping of sums changes the last token."""
    later = component("shaping", {"use": "missing_eos", "penalty": 0.5})
    found = Scorer(plain(lambda _: [3.0, 4.0, 5.0]), [Spread(), later], {1})(RAGGED)
    assert found.token_rewards.tolist() == [[1, 1, 1, 0], [1, 1, 1, 0.5], [4.5, 0, 0, 0]]
    assert (found.scores.tolist(), found.by_token) == ([3.0, 3.5, 4.5], True)
    assert found.take([0], 3).by_token
