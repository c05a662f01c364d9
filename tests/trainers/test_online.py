"""PPO's loss is the papers', its parts are wired, and it climbs a reward that it is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from rlhf_plugins.data.branches import BranchBatch
from rlhf_plugins.data.groups import prompt_dataset
from rlhf_plugins.errors import PluginError, RlhfError, RunError
from rlhf_plugins.interfaces import Adapter, Base, RewardFunction, Samples
from rlhf_plugins.models.loading import load_causal, load_tokenizer, lora
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.registry import registry
from rlhf_plugins.rollout import Advantages, Rollout
from rlhf_plugins.testing import tiny_pairs
from rlhf_plugins.trainers.arguments import arguments
from rlhf_plugins.trainers.online import Coefficients, Objective, OnlineTrainer
from rlhf_plugins.trainers.online_config import OnlineConfig

from . import by_hand
from .conftest import furthest, losses, trained

Bases = Callable[..., Base]
OPTIONS: dict[str, Any] = {
    "max_steps": 6,
    "per_device_train_batch_size": 6,
    "num_generations": 3,
    "steps_per_generation": 2,
    "max_completion_length": 6,
    "logging_steps": 1,
    "learning_rate": 1e-2,
    "disable_tqdm": True,
    "disable_dropout": True,
}
WEIGHTS = Coefficients(by_hand.KL, by_hand.VALUE, by_hand.VALUE_CLIP, by_hand.ENTROPY, by_hand.MISSING_EOS)
GAE = component("advantage", {"use": "gae", "gamma": by_hand.GAMMA, "lam": by_hand.LAM})


def prompts(count: int = 12) -> Dataset:
    return prompt_dataset(pair.prompt for pair in tiny_pairs(count))


def ants(samples: Samples) -> list[float]:
    return [float(text.split().count("ant")) for text in samples.responses]


def trainer(
    base: Base, folder: Path, score: RewardFunction = ants, weights: Coefficients = WEIGHTS, **options: Any
) -> OnlineTrainer:
    adapter, cls, advantage = options.pop("adapter", True), options.pop("cls", OnlineTrainer), options.pop("gae", GAE)
    return cls(
        load_causal(base),
        Objective(score, advantage, weights),
        arguments(OnlineConfig, folder, 0, {**OPTIONS, **options}),
        prompts(),
        load_tokenizer(base),
        lora(Adapter(r=4), "CAUSAL_LM") if adapter else None,
        None if adapter else load_causal(base),
    )


class Watched(OnlineTrainer):
    """Computes every rollout and every loss a second time, by hand; `pairs` are (ours, by hand)."""

    pairs: list[tuple[float, float]]

    def _scores(self, samples: Samples) -> Tensor:
        self.told = by_hand.told(self, samples, ants(samples))
        return super()._scores(samples)

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        loss = super()._compute_loss(model, inputs)
        batch = BranchBatch.from_inputs(inputs)
        ids = batch.input_ids.flatten()[batch.index]
        asked = batch.mask & ~batch.response
        sequences = [
            (tuple(i[a].tolist()), tuple(i[r].tolist())) for i, a, r in zip(ids, asked, batch.response, strict=True)
        ]
        self.pairs = [*getattr(self, "pairs", []), (loss.item(), by_hand.loss(self, self.told, sequences))]
        return loss


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"adapter": False},
        {"num_iterations": 3},
        {"temperature": 0.7},
        {"per_device_train_batch_size": 4, "steps_per_generation": 3},  # does not hold whole groups of 3
        {"architecture": "mamba", "adapter": False},  # cannot share rows
        {"architecture": "gemma2"},  # caps its logits
    ],
    ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items()) or "plain",
)
def test_the_loss_is_the_one_computed_by_hand(bases: Bases, tmp_path: Path, options: dict[str, Any]) -> None:
    base = bases(options.pop("architecture", "llama"))
    watched: Any = trainer(base, tmp_path, cls=Watched, epsilon=by_hand.CLIP, **options)
    watched.train()
    mine, plain = zip(*watched.pairs, strict=True)
    assert len(mine) == 6
    assert len({round(loss, 4) for loss in mine}) == 6
    assert mine == pytest.approx(plain, rel=1e-5, abs=1e-5)


def test_accumulation_divides_the_loss(bases: Bases, tmp_path: Path) -> None:
    watched: Any = trainer(
        bases(), tmp_path, cls=Watched, gradient_accumulation_steps=2, max_steps=2, epsilon=by_hand.CLIP
    )
    watched.train()
    assert [mine for mine, _ in watched.pairs] == pytest.approx([plain / 2 for _, plain in watched.pairs], rel=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_at_the_first_minibatch_nothing_has_moved(bases: Bases, tmp_path: Path, architecture: str) -> None:
    """Ratio 1 at the first minibatch of each rollout, values and KL 0 at the first rollout, gpt2's dropout off."""
    found = trainer(bases(architecture), tmp_path, epsilon=1e-6, learning_rate=3e-2)
    found.train()
    logged = [entry for entry in found.state.log_history if "clip_fraction" in entry]
    assert [entry["clip_fraction"] > 0.5 for entry in logged] == [False, True] * 3
    assert logged[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert logged[2]["kl"] != pytest.approx(0, abs=1e-3)


def test_the_value_head_is_trained_and_taken_off(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(), tmp_path, max_steps=1)
    assert not any(p.any() for p in found.model.value_head.parameters())
    found.train()
    optimized = {id(p) for group in found.optimizer.param_groups for p in group["params"]}
    head = found.take_value_head()
    assert {id(p) for p in head.parameters()} <= optimized
    assert all(p.any() for p in head.parameters())
    assert not hasattr(found.model, "value_head")


@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
def test_the_reference_is_untouched(bases: Bases, tmp_path: Path, adapter: bool) -> None:
    found = trainer(bases(), tmp_path, adapter=adapter)
    found.train()
    frozen = found.model.get_base_model() if adapter else found._reference
    base = load_causal(bases()).state_dict()
    kept = {name.replace(".base_layer", ""): p for name, p in frozen.named_parameters() if "lora_" not in name}
    assert all(torch.equal(p, base[name]) for name, p in kept.items())


def curve(found: OnlineTrainer, name: str) -> list[float]:
    found.train()
    return [entry[name] for entry in found.state.log_history if name in entry]


BIG = {"per_device_train_batch_size": 24, "num_generations": 4, "steps_per_generation": 1, "num_iterations": 2}


@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
def test_it_climbs_a_reward_that_it_is_shown(bases: Bases, tmp_path: Path, adapter: bool) -> None:
    free = Coefficients(kl=0.0, missing_eos=0.0)
    rewards = curve(trainer(bases(), tmp_path, weights=free, adapter=adapter, max_steps=40, **BIG), "reward")
    assert sum(rewards[-3:]) / 3 > 2 * (sum(rewards[:3]) / 3) + 0.5


def test_a_huge_kl_coefficient_holds_the_policy(bases: Bases, tmp_path: Path) -> None:
    options = {**BIG, "max_steps": 20, "learning_rate": 3e-3}
    free, held = (
        curve(trainer(bases(), tmp_path, weights=Coefficients(kl=kl, missing_eos=0.0), **options), "kl")[-1]
        for kl in (0.0, 100.0)
    )
    assert abs(held) < 0.2 * abs(free)


def test_the_same_seed_gives_the_same_curve(bases: Bases, tmp_path: Path) -> None:
    first = trainer(bases(), tmp_path)
    expected = losses(first)
    second = trainer(bases(), tmp_path)
    assert losses(second) == expected
    assert furthest(trained(first), trained(second)) == 0


@pytest.mark.parametrize(("penalty", "scores"), [(0.0, [2.0, 2.0]), (0.7, [2.0, 1.3])])
def test_a_response_without_its_end_costs_the_penalty(
    bases: Bases, tmp_path: Path, penalty: float, scores: list[float]
) -> None:
    found = trainer(bases(), tmp_path, lambda _: [2.0, 2.0], Coefficients(missing_eos=penalty))
    samples = Samples(["how", "how"], ["ant", "ant bee"], [[15], [15]], [[3, by_hand.EOS], [3, 4]])
    assert found._scores(samples).tolist() == pytest.approx(scores)


def test_every_end_token_of_the_model_ends_a_response(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(pad_is_eos=True), tmp_path)
    assert found.eos_token_ids == [by_hand.EOS]
    samples = found._sample([row["prompt"] for row in prompts()])
    assert all(by_hand.EOS not in ids[:-1] for ids in samples.response_ids)
    assert any(ids[-1] == by_hand.EOS for ids in samples.response_ids)


def fails(samples: Samples) -> list[float]:
    raise ZeroDivisionError("no fox")


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda s: [float("nan")] * len(s.responses), "gave nan for the response '.*'"),
        (lambda s: [1.0], r"gave numbers of shape \(1,\) for 12 responses"),
        (lambda s: [[1.0, 2.0]] * len(s.responses), r"gave numbers of shape \(12, 2\) for 12 responses"),
        (lambda s: [None] * len(s.responses), r"gave \[None, .*\.\.\., not a number for each of 12 responses"),
        (lambda s: None, "<lambda> of .* gave None, not a number for each of 12"),
        (fails, "fails of .* failed: ZeroDivisionError: no fox"),
    ],
)
def test_a_bad_reward_is_named(bases: Bases, tmp_path: Path, score: RewardFunction, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        trainer(bases(), tmp_path, score).train()


class Short:
    needs_values = True

    def __call__(self, rollout: Rollout) -> Advantages:
        return Advantages(rollout.rewards[:, 0], rollout.rewards)


class Raising:
    needs_values = True

    def __call__(self, rollout: Rollout) -> Advantages:
        raise KeyError("gamma")


class Endless:
    needs_values = True

    def __call__(self, rollout: Rollout) -> Advantages:
        return Advantages(rollout.rewards / 0, rollout.rewards)


@pytest.mark.parametrize(
    ("advantage", "message"),
    [
        (Short(), r"Short of .* gave shape \(12,\), not \(12, \d+\)"),
        (Raising(), "Raising of .* failed: KeyError"),
        (Endless(), "Endless of .* made (-?inf|nan) of finite numbers"),
    ],
)
def test_a_bad_estimator_is_named(bases: Bases, tmp_path: Path, advantage: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        trainer(bases(), tmp_path, gae=advantage).train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_generations": 5}, "OnlineConfig refuses these options: .*num_generations"),
        ({"per_device_train_batch_size": 60}, "was left 12 rows, too few for one batch"),
    ],
)
def test_a_rollout_that_cannot_be_filled_is_refused(
    bases: Bases, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RlhfError, match=message):
        trainer(bases(), tmp_path, **options)


NAMES = registry().names("advantage")


@pytest.mark.parametrize("name", NAMES)
def test_every_estimator_trains_and_those_without_a_critic_load_none(bases: Bases, tmp_path: Path, name: str) -> None:
    estimator = component("advantage", name)
    found = trainer(bases(), tmp_path, gae=estimator, max_steps=2)
    assert [n for n, _ in found.model.named_parameters() if "value_head" in n] == (
        ["value_head.weight", "value_head.bias"] if estimator.needs_values else []
    )
    found.train()
    assert ("value_loss" in found.state.log_history[0]) == estimator.needs_values
    assert (found.take_value_head() is None) != estimator.needs_values


@pytest.mark.parametrize("name", NAMES)
def test_one_response_a_prompt_is_enough_or_refused(bases: Bases, tmp_path: Path, name: str) -> None:
    estimator = component("advantage", name)
    options = {"num_generations": 1, "per_device_train_batch_size": 3, "steps_per_generation": 1, "max_steps": 2}
    if hasattr(estimator, "min_group"):
        with pytest.raises(RunError, match="num_generations is 1, and it needs 2 or more"):
            trainer(bases(), tmp_path, gae=estimator, **options)
    else:
        assert len(losses(trainer(bases(), tmp_path, gae=estimator, **options))) == 2


def test_remax_is_given_the_greedy_responses_scores(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(), tmp_path, gae=component("advantage", "remax"))
    asked = ["how", "is ant"]
    scores = found._greedy_scores([asked[0]] * 3 + [asked[1]] * 3).tolist()
    for prompt, score in zip(asked, scores[::3], strict=True):
        ids = found._tokenizer(prompt, return_tensors="pt")
        written = found.model.generate(**ids, do_sample=False, max_new_tokens=6)[0, ids["input_ids"].shape[1] :]
        text = found._tokenizer.decode(written, skip_special_tokens=True)
        assert score == pytest.approx(text.split().count("ant") - 0.7 * (by_hand.EOS not in written))
    assert scores == [scores[0]] * 3 + [scores[3]] * 3
