"""What a rollout is made of: rewards on the right tokens, masks that never leak, exploration, and who learns."""

from __future__ import annotations

import json
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from marks import slow
from torch import Tensor, tensor
from torch.testing import assert_close

from rlhf_plugins.contract.interfaces import Advantage
from rlhf_plugins.contract.rollout import Advantages, Rollout
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run_kinds import RewardFunction
from rlhf_plugins.data.batches.branches import BranchBatch
from rlhf_plugins.engine.weights.loading import load_causal
from rlhf_plugins.errors import ComponentError, PluginError, RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.trainers.online.trainer import OnlineTrainer
from rlhf_plugins.trainers.ppo.models import mixed
from rlhf_plugins.trainers.ppo.options import Exploration, Oversight, Table
from rlhf_plugins.trainers.ppo.oversight import percentiles
from rlhf_plugins.trainers.ppo.scoring import Scorer

from . import by_hand
from .conftest import furthest, trained
from .online_parts import (
    FREE,
    Bases,
    ants,
    curve,
    logged,
    objective,
    plain,
    prompts,
    rolled_out,
    samples_of,
    trainer,
)

EOS = by_hand.EOS
RAGGED = Samples(["how"] * 3, ["x"] * 3, [[15]] * 3, [[3, 4, EOS], [3], [3, 4, 5, 6]])


def scorer(score: RewardFunction, *shaping: Any) -> Scorer:
    return Scorer(plain(score), [component("shaping", words) for words in shaping], {EOS})


def test_a_score_is_paid_at_the_last_token_whether_it_is_the_end_or_not() -> None:
    found = scorer(lambda _: [1.0, 2.0, 3.0], {"use": "missing_eos", "penalty": 0.5})(RAGGED)
    assert found.token_rewards.tolist() == [[0, 0, 1, 0], [1.5, 0, 0, 0], [0, 0, 0, 2.5]]
    assert (found.rewards.tolist(), found.scores.tolist()) == ([1, 2, 3], [1, 1.5, 2.5])


def test_a_reward_may_be_given_per_token() -> None:
    rows = [[0.1, 0.2, 0.3], [1.0], tensor([0.0, 0.0, 2.0, 0.0])]
    found = scorer(lambda _: rows, {"use": "missing_eos", "penalty": 0.5})(RAGGED)
    assert_close(found.token_rewards, tensor([[0.1, 0.2, 0.3, 0], [0.5, 0, 0, 0], [0, 0, 2, -0.5]]))
    assert_close(found.scores, tensor([0.6, 0.5, 1.5]))
    assert found.by_token


def fails(samples: Samples) -> list[float]:
    raise ZeroDivisionError("no fox")


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda s: [float("nan")] * 3, "gave nan for the response 'x'"),
        (lambda s: [1.0], r"gave 1 number for 3 responses"),
        (lambda s: [[1.0, 2.0]] * 3, r"gave numbers of shape \(2,\) for a response of 3 tokens: one, or one a token"),
        (lambda s: [1.0, [1.0], 1.0], "gave numbers to some responses and rows of them to others"),
        (lambda s: ["a"] * 3, r"gave \['a', .*, not a number for each of 3 responses"),
        (lambda s: None, "<lambda> of .* failed: TypeError|<lambda> of .* gave None, not a number for each of 3"),
        (fails, "fails of .* failed: ZeroDivisionError: no fox"),
    ],
)
def test_a_bad_reward_is_named(score: RewardFunction, message: str) -> None:
    with pytest.raises(ComponentError, match=message):
        scorer(score)(RAGGED)


@pytest.mark.parametrize(("sampled", "greedy", "equal"), [(1.0, 0.0, False), (1.0, 1.0, True)])
def test_equal_scores_are_a_signal_where_they_differ_from_their_baseline(
    bases: Bases, tmp_path: Path, sampled: float, greedy: float, equal: bool
) -> None:
    """All samples at 1 and all greedy responses at 0 give A = 1 - 0 = 1 at every token."""
    score = lambda samples: [sampled] * 12 + [greedy] * 4  # noqa: E731
    found = trainer(bases(), tmp_path, objective(score, advantage="remax", **FREE))
    rollout = rolled_out(found, [row["prompt"] for row in prompts(4) for _ in range(3)])
    assert rollout.advantages[rollout.mask].unique().tolist() == [sampled - greedy]
    assert rollout.equal_rewards == equal


@pytest.mark.parametrize(("advantage", "equal"), [("grpo", True), ("rloo", True), ("reinforce_baseline", False)])
def test_scores_that_differ_between_prompts_alone_are_a_signal_to_what_compares_prompts(
    bases: Bases, tmp_path: Path, advantage: str, equal: bool
) -> None:
    """Prompt i's three responses are all paid i: within a prompt nothing is better than the rest."""
    score = lambda samples: [float(i) for i in range(4) for _ in range(3)]  # noqa: E731
    found = trainer(bases(), tmp_path, objective(score, advantage=advantage, entropy_coef=0.0, **FREE))
    rollout = rolled_out(found, [row["prompt"] for row in prompts(4) for _ in range(3)])
    assert rollout.advantages.any().item() is not equal
    assert rollout.equal_rewards is equal


@pytest.mark.parametrize(
    "pull",
    [
        {"kl": {"use": "in_reward", "coef": 0.05}, "entropy_coef": 0.0},
        {"kl": {"use": "in_loss", "coef": 0.05, "estimator": "k3"}, "entropy_coef": 0.0},
        {"entropy_coef": 0.01},
    ],
    ids=["kl in the reward", "kl in the loss", "entropy"],
)
def test_a_kl_or_a_bonus_still_acts_where_rewards_are_equal_within_each_prompt(
    bases: Bases, tmp_path: Path, pull: dict[str, Any]
) -> None:
    score = lambda samples: [float(i) for i in range(4) for _ in range(3)]  # noqa: E731
    found = trainer(bases(), tmp_path, objective(score, advantage="rloo", **(FREE | pull)))
    assert not rolled_out(found, [row["prompt"] for row in prompts(4) for _ in range(3)]).equal_rewards


def test_padding_changes_nothing(bases: Bases, tmp_path: Path) -> None:
    """Another token in the padding, and other rows beside it, leave what is seen of a response as it was."""
    found = trainer(bases(), tmp_path)
    (groups,) = found._models.batches(RAGGED.prompt_ids, RAGGED.response_ids, None)
    dirty = BranchBatch(**{**vars(groups), "input_ids": groups.input_ids.masked_fill(groups.segment == -1, 9)})
    with torch.no_grad():
        clean, other = (found._models.outputs(batch, entropy=True) for batch in (groups, dirty))
        (first,) = found._models.batches(RAGGED.prompt_ids[:1], RAGGED.response_ids[:1], None)
        alone = found._models.outputs(first, True)
    for one, same, lone in zip(clean[:3], other[:3], alone[:3], strict=True):
        assert_close(one, same, rtol=0, atol=0)
        assert_close(one[:1, :3], lone)
        assert not one[~groups.response_mask()].any()


@pytest.mark.parametrize(("tokens", "micro_batches"), [(None, 1), (24, 3)])
def test_minibatches_hold_the_rollouts_numbers_of_their_rows(
    bases: Bases, tmp_path: Path, tokens: int | None, micro_batches: int
) -> None:
    found = trainer(bases(), tmp_path, tokens_per_batch=tokens)
    rollout = rolled_out(found, [row["prompt"] for row in prompts(4) for _ in range(3)])
    parts = [part for step in rollout.parts for part in step]
    assert sorted(row for part in parts for row in part.rows.tolist()) == list(range(12))
    assert [sum(len(part.rows) for part in step) for step in rollout.parts] == [6, 6]
    assert len(parts) >= 2 * micro_batches
    assert all(part.batch.input_ids.numel() <= (tokens or 1000) for part in parts)
    for part in parts:
        mask = part.batch.response_mask()
        lengths = [len(rollout.samples.response_ids[i]) for i in part.rows]
        assert mask.sum(1).tolist() == lengths
        assert torch.equal(mask, rollout.mask[part.rows, : mask.shape[1]])
    assert rollout.values is not None
    for tensors in (rollout.log_probs, rollout.reference, rollout.values, rollout.advantages, rollout.returns):
        assert not tensors[~rollout.mask].any()


@pytest.mark.parametrize("options", [{}, *slow({"steps_per_generation": 1}, {"tokens_per_batch": 24})])
def test_the_record_of_a_rollout_is_all_that_its_steps_need(bases: Bases, tmp_path: Path, options: Any) -> None:
    """As a resume will have it: each training step goes on from a copy of the record, without any graph."""

    class Copying(OnlineTrainer):
        def training_step(self, *given: Any) -> Tensor:
            if self._experience is not None:
                self._experience = deepcopy(replace(self._experience, first=None))
            return super().training_step(*given)

    ends = []
    for cls in (OnlineTrainer, Copying):
        found = trainer(bases(), tmp_path, cls=cls, num_iterations=2, **options)
        found.train()
        ends.append(trained(found))
    assert furthest(*ends) < 1e-6


def test_the_adapter_off_is_a_separate_frozen_model(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(), tmp_path)
    found.train()
    (batch,) = found._models.batches(RAGGED.prompt_ids, RAGGED.response_ids, None)
    frozen = load_causal(bases())
    for row, ids in enumerate(RAGGED.response_ids):
        logits = frozen(tensor([[15, *ids]])).logits[0, :-1].log_softmax(-1)
        expected = logits.gather(1, tensor(ids).unsqueeze(1)).squeeze(1)
        assert_close(found._models.reference_log_probs(batch)[row, : len(ids)], expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert (found._models.outputs(batch).log_probs - found._models.reference_log_probs(batch)).abs().max() > 0.01


@pytest.mark.parametrize(("adapter", "advantage"), [(True, "gae"), *slow((True, "rloo"), (False, "gae"))])
def test_policy_and_critic_learn_and_nothing_else(bases: Bases, tmp_path: Path, adapter: bool, advantage: str) -> None:
    found = trainer(bases(), tmp_path, objective(advantage=advantage), adapter=adapter, max_steps=4)
    before = {name: p.detach().clone() for name, p in found.model.named_parameters()}
    found.train()
    moved = {name for name, p in found.model.named_parameters() if not torch.equal(p, before[name])}
    policy = {name for name in before if ("lora_" in name if adapter else "value_head" not in name)}
    assert moved == policy | ({"value_head.weight", "value_head.bias"} if advantage == "gae" else set())
    if not adapter:
        assert not any(p.requires_grad for p in found._models.reference.parameters() if p.grad is not None)


def test_the_mixture_by_hand() -> None:
    """0.9 * 1/2 + 0.1 * 1/5 = 0.47."""
    assert mixed(tensor(log(0.5)), tensor(log(0.2)), 0.1).exp().item() == pytest.approx(0.47)


def test_generation_samples_the_mixture(bases: Bases, tmp_path: Path) -> None:
    """First tokens of many responses, against the mixture of both distributions computed from plain logits."""
    found, explore = trainer(bases(), tmp_path, objective(exploration=Exploration(0.3, 50.0))), Exploration(0.3, 50.0)
    samples = Counter(ids[0] for _ in range(4) for ids in samples_of(found, ["how"] * 600).response_ids)
    logits = load_causal(bases())(tensor([[15]])).logits[0, -1]
    expected = 0.7 * logits.softmax(-1) + 0.3 * (logits / 50).softmax(-1)
    for token in range(len(expected)):
        p = expected[token].item()
        assert abs(samples[token] / 2400 - p) < 5 * (p * (1 - p) / 2400) ** 0.5 + 1e-9
    with found._models.exploring(explore):
        mixture = found.model(input_ids=tensor([[15]])).logits[0, -1].softmax(-1)
    assert_close(mixture, expected)
    assert_close(found.model(input_ids=tensor([[15]])).logits[0, -1], logits)  # and afterwards nothing is left of it


def test_the_ratio_is_against_the_mixture_that_sampled(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(), tmp_path, objective(exploration=Exploration(0.3, 50.0)), temperature=0.8)
    rollout = rolled_out(found, ["how"] * 3)
    for row, ids in enumerate(map(list, rollout.samples.response_ids)):
        logits = load_causal(bases())(tensor([[15, *ids]])).logits[0, :-1]
        chosen = tensor(ids).unsqueeze(1)
        own, hot = ((logits / t).softmax(-1).gather(1, chosen).squeeze(1) for t in (0.8, 50.0))
        assert_close(rollout.log_probs[row, : len(ids)], (0.7 * own + 0.3 * hot).log(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("option", [{"top_p": 0.9}, {"top_k": 5}, {"repetition_penalty": 1.1}])
def test_exploration_refuses_what_would_sample_something_else(
    bases: Bases, tmp_path: Path, option: dict[str, Any]
) -> None:
    with pytest.raises(
        RunError, match=f"exploration: with {next(iter(option))} responses would not be sampled from the mixture"
    ):
        trainer(bases(), tmp_path, objective(exploration=Exploration()), **option)


@pytest.mark.slow
def test_it_climbs_while_it_explores(bases: Bases, tmp_path: Path) -> None:
    options = {"per_device_train_batch_size": 24, "num_generations": 4, "steps_per_generation": 1, "max_steps": 30}
    aim = objective(**FREE, exploration=Exploration(0.1, 5.0))
    rewards = curve(trainer(bases(), tmp_path, aim, **options), "reward")
    assert sum(rewards[-3:]) > 1.5 * sum(rewards[:3]) + 1


def test_values_and_rewards_reach_the_estimator(bases: Bases, tmp_path: Path) -> None:
    class Asking(Advantage, reads_values=True):
        asked: list[Rollout] = []

        def __call__(self, rollout: Rollout) -> Advantages:
            self.asked.append(rollout)
            return Advantages(rollout.rewards, rollout.rewards)

    found = trainer(bases(), tmp_path, objective(advantage=Asking()))
    found.train()
    last = Asking.asked[-1]
    assert last.values is not None
    assert last.values[last.mask].abs().min() > 0
    assert last.log_probs is not None
    assert (last.log_probs[last.mask] < 0).all()
    assert last.group.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert last.baseline is None
    assert not last.rewards[~last.mask].any()


def test_the_rest_of_a_rollout_is_skipped_once_the_policy_moved(bases: Bases, tmp_path: Path) -> None:
    """Three epochs of two minibatches: the first finds ratios of 1, the second that the policy has moved."""
    options = {"num_iterations": 3, "max_steps": 12}
    found = trainer(bases(), tmp_path, objective(stop_kl=1e-6), **options)
    assert curve(found, "skipped") == 2 * [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    assert len(logged(found, "policy_loss")) == 2 * 2
    assert not logged(trainer(bases(), tmp_path, objective(stop_kl=1e9), **options), "skipped")


@pytest.mark.parametrize("kl", ["in_reward", "in_loss"])
@pytest.mark.parametrize("adapt", [*slow(None), {"target": 0.01, "horizon": 100}])
def test_the_kl_coefficient_follows_its_controller(
    bases: Bases, tmp_path: Path, kl: str, adapt: dict[str, Any] | None
) -> None:
    found = trainer(bases(), tmp_path, objective(kl={"use": kl, "coef": 0.2, "adapt": adapt}), max_steps=6)
    coefs, seen = curve(found, "kl_coef"), logged(found, "kl")
    expected = [0.2]
    for value in seen[:-1]:
        error = min(max(value / 0.01 - 1, -0.2), 0.2) if adapt else 0.0
        expected.append(expected[-1] * (1 + error * 12 / 100))
    assert coefs == pytest.approx(expected)


def test_the_logged_kl_coefficient_is_the_one_that_was_used(bases: Bases, tmp_path: Path) -> None:
    used: list[float] = []

    class Noting(OnlineTrainer):
        def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
            used.append(self._experience.kl_coef)  # type: ignore[union-attr]
            return super()._compute_loss(model, inputs)

    kl = {"use": "in_loss", "coef": 0.2, "adapt": {"target": 0.01, "horizon": 100}}
    logs = curve(trainer(bases(), tmp_path, objective(kl=kl), cls=Noting, max_steps=6), "kl_coef")
    assert used == [coef for coef in logs for _ in range(2)]
    assert len(set(used)) == 3


@pytest.mark.parametrize("next_coef", [-0.1, float("nan"), float("inf"), None])
def test_a_controller_that_gives_no_coefficient_is_named(bases: Bases, tmp_path: Path, next_coef: Any) -> None:
    class Broken(type(component("kl", "in_loss"))):  # type: ignore[misc]
        def adapted(self, coef: float, kl: float, episodes: int) -> float:
            return next_coef  # type: ignore[no-any-return]

    with pytest.raises(PluginError, match=f"Broken of .* adapted its coefficient to {next_coef}, not to a finite"):
        trainer(bases(), tmp_path, objective(kl=Broken(estimator=component("kl_estimator", "k3")))).train()


def test_a_reward_with_a_gradient_is_a_number(bases: Bases, tmp_path: Path) -> None:
    weight = torch.ones(1, requires_grad=True)
    found = trainer(bases(), tmp_path, objective(lambda s: torch.tensor(ants(s)) * weight))
    assert len(curve(found, "reward")) == 3
    assert weight.grad is None


@pytest.mark.slow
def test_a_kl_term_in_the_loss_holds_the_policy(bases: Bases, tmp_path: Path) -> None:
    aims = (objective(kl={"use": "in_loss", "coef": coef}, shaping=[]) for coef in (0.0, 30.0))
    free, held = (curve(trainer(bases(), tmp_path, aim, max_steps=20, learning_rate=3e-3), "kl")[-1] for aim in aims)
    assert abs(held) < 0.3 * abs(free)


@pytest.mark.slow
def test_the_bases_generation_config_changes_no_sample(bases: Bases, tmp_path: Path) -> None:
    plain, changed = (trainer(bases(), tmp_path) for _ in range(2))
    changed.model.get_base_model().generation_config.suppress_tokens = list(range(5, 13))
    sampled = []
    for found in (plain, changed):
        torch.manual_seed(0)
        sampled.append(samples_of(found, ["how", "ant"] * 8).response_ids)
    assert sampled[0] == sampled[1]


def test_a_checkpoint_is_refused(bases: Bases, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot go on from a checkpoint, which holds neither the rollout"):
        trainer(bases(), tmp_path).train(resume_from_checkpoint=True)


def test_numbers_are_logged_and_some_responses_are_kept(bases: Bases, tmp_path: Path) -> None:
    gold = Oversight(Table(every=2, rows=3), gold=lambda prompt, response: {"total": float(len(response))})
    found = trainer(bases(), tmp_path, max_steps=10, oversight=gold)
    found.train()
    names = ("reward", "shaped_reward", "gold_reward", "kl", "entropy", "length", "explained_variance")
    for name in (*names, "reward_p5", "reward_p95", "length_p50"):
        assert len(logged(found, name)) == 5, name
    assert all(len(logged(found, name)) == 10 for name in ("policy_loss", "value_loss", "clip_fraction", "approx_kl"))
    kept = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in kept] == [0] * 3 + [4] * 3 + [8] * 3
    assert all(row["gold"] == len(row["response"]) for row in kept)
    assert [row["step"] for row in found.rollouts_shown] == [0] * 3 + [8] * 3
    assert len({row["prompt"] for row in kept[:3]}) == 3


def test_percentiles_by_hand() -> None:
    found = percentiles("length", torch.tensor([4, 0, 3, 1, 2]))
    assert found == pytest.approx(
        {"length_p5": 0.2, "length_p25": 1, "length_p50": 2, "length_p75": 3, "length_p95": 3.8}
    )


def test_a_chat_template_that_refuses_gives_one_line(bases: Bases, tmp_path: Path) -> None:
    found: Any = trainer(bases(), tmp_path)
    found._tokenizer.chat_template = "{{ raise_exception('only users may begin') }}"
    with pytest.raises(RunError, match="the chat template refuses a prompt of this rollout: only users may begin"):
        samples_of(found, [[{"role": "system", "content": "hello"}]] * 3)
