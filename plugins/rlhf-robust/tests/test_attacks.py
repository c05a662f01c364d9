"""Attacks: changes that keep what is said, accuracy under the worst of them, and a model that is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rlhf_robust.changes import CHANGES, padded, repeated, swapped
from rlhf_robust.harden import Attack, accuracy

from rlhf_plugins import Group, PluginError, Prediction, RunError, Samples, ScoredPairs, component
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run


@pytest.mark.parametrize("seed", range(5))
def test_changes_take_nothing_away(seed: int) -> None:
    text, rng = "it is red. it is big.", np.random.default_rng(seed)
    assert sorted(swapped(text, rng).split()) == sorted(text.split())
    longer = padded(text, rng).split(". ")
    assert [one for one in longer if one.rstrip(".") in ("it is red", "it is big")] != []
    assert repeated(text, rng) in (f"{text} it is red.", f"{text} it is big.")
    assert all(change("", rng) is not None for change in CHANGES.values())


def test_the_metric_by_hand() -> None:
    """A repetition is worth 0.3 to the model, padding 0.1: gaps of 0.05, 0.2 and 0.5."""
    gaps = np.array([0.05, 0.2, 0.5])

    def again(rewrite: Any) -> ScoredPairs:
        text = rewrite("red. big.", np.random.default_rng(0))
        kind = 0.3 if text.count("red") + text.count("big") > 2 else 0.1 if len(text) > 9 else -1.0
        return ScoredPairs(gaps + kind, np.zeros(3) + kind, *np.ones((2, 3)))

    found = component("metric", "attacked", draws=2)(ScoredPairs(gaps, np.zeros(3), *np.ones((2, 3)), again=again))
    assert found["attacked_padded"] == pytest.approx(2 / 3)
    assert found["attacked_repeated"] == found["attacked_accuracy"] == pytest.approx(1 / 3)
    assert found["attacked_swapped"] == 1.0


class LikesLength:
    """A reward of its words."""

    def encode(self, pairs: list[Group], responses: list[str]) -> Samples:
        prompts = [pair.prompt for pair in pairs]
        return Samples(prompts, responses, [[0]] * len(prompts), [[0]] * len(prompts))

    def predict(self, samples: Samples) -> Prediction:
        return Prediction(torch.tensor([float(len(text.split())) for text in samples.responses]))


def test_an_attack_goes_on_from_the_worst_version() -> None:
    """For a model that counts words a padding sentence is worth 4 or 6, a repetition what is repeated."""
    pairs = [Group("p", ("red. " * 11, "red."), (0, 1)), Group("p", ("red.", ""), (0, 1))]
    found = {steps: Attack(6, steps)(pairs, LikesLength(), np.random.default_rng(0)) for steps in (1, 3)}
    words = {steps: [len(pair.responses[1].split()) for pair in attacked] for steps, attacked in found.items()}
    assert all(once < after for once, after in zip(words[1], words[3], strict=True))
    assert [pair.responses[0] for pair in found[3]] == [pair.responses[0] for pair in pairs]
    assert accuracy(pairs, LikesLength()) == 1.0
    assert accuracy(found[3], LikesLength()) == 0.0


class Beats(LikesLength):
    """The share of the others in its group that a response is longer than; alone it would have one half."""

    def predict(self, samples: Samples) -> Prediction:
        rows = list(zip(samples.groups(), (len(text.split()) for text in samples.responses), strict=True))
        others = [[(own > other) + 0.5 * (own == other) for at, other in rows if at == group] for group, own in rows]
        assert all(len(one) > 1 for one in others), "none is alone"
        return Prediction(torch.tensor([(sum(one) - 0.5) / (len(one) - 1) for one in others]))


def test_a_judge_that_compares_is_attacked_and_measured_as_one_of_the_same_order() -> None:
    """Of two pairs of one prompt, of which neither is scored beside the other's responses."""
    pairs = [Group("p", ("red. " * 11, "red."), (0, 1)), Group("p", ("red.", ""), (0, 1))]
    by_share, by_length = (Attack(6, 3)(pairs, judge, np.random.default_rng(0)) for judge in (Beats(), LikesLength()))
    assert by_share == by_length != pairs
    assert [accuracy(rows, Beats()) for rows in (pairs, by_share)] == [1.0, 0.0]


def test_a_version_that_pleases_less_is_not_kept() -> None:
    class LikesBrevity(LikesLength):
        def predict(self, samples: Samples) -> Prediction:
            return Prediction(-super().predict(samples).reward)

    pair = Group("p", ("red.", "red. big."), (0, 1))
    assert Attack(2, 2)([pair], LikesBrevity(), np.random.default_rng(0))[0] is pair
    assert accuracy([Group("p", ("a", "b"), (0, 1))], LikesLength()) == 0.5


def test_a_version_keeps_what_is_known_of_the_pair_but_not_of_the_response() -> None:
    """A loss by topics or a head by users reads it; the true reward was that of another response."""
    known: dict[str, Any] = {"topic": "t", "weight": 0.5, "columns": {"user": 3}}
    pair = Group("p", ("red. big.", "red."), (0, 1), gold=(1.0, 0.0), ratings={"good": (1.0, 0.0)}, **known)
    (found,) = Attack(2, 1)([pair], LikesLength(), np.random.default_rng(0))
    assert found == Group("p", ("red. big.", found.responses[1]), (0, 1), **known)
    assert found.responses[1] != "red."


def test_rows_for_the_model_alone_are_refused_before_it_is_trained() -> None:
    with pytest.raises(PluginError, match="model: data: each round gives it rows"):
        component("stage", "harden", model={"stage": "reward_model", "data": {"format": "sandbox"}})


@pytest.mark.slow
def test_a_model_is_attacked_and_trained_again(tmp_path: Path) -> None:
    trainer = {"max_steps": 8, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "disable_tqdm": True}
    model = {"stage": "reward_model", "pooling": "mean_sqrt_length", "trainer": trainer}
    stage = component("stage", "harden", model=model, rounds=1, candidates=6, changes=2)
    made = stage.run(tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run", tiny_pairs(64)))
    plain, hardened = made.metrics["models"]
    assert plain["attacked"] <= plain["clean"]
    assert hardened["rows added"] > 0
    assert hardened["attacked as the first"] >= plain["attacked"]
    assert made.rewards["harden"]["path"].endswith("r1/model")
    by_other = component("stage", "harden", model=model, rounds=1, candidates=6, changes=2, attacker="harden")
    found = by_other.run(tiny_run(tiny_base(tmp_path / "base"), tmp_path / "by_other", tiny_pairs(64), [made]))
    assert found.metrics["models"][1]["rows added"] != hardened["rows added"]
    with pytest.raises(RunError, match="no pair is strictly ordered"):
        stage.run(tiny_run(tiny_base(tmp_path / "base"), tmp_path / "other", [Group("how", ("ant",))]))
