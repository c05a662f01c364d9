"""The loss is the papers', its parts are wired, and it climbs a reward that it is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from marks import slow
from torch import Tensor

from rlhf_plugins.contract.interfaces import Advantage
from rlhf_plugins.contract.rollout import Advantages, Rollout
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.engine.weights.loading import load_causal
from rlhf_plugins.errors import PluginError, RlhfError, RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.registry.registry import registry
from rlhf_plugins.trainers.arguments import record_curves
from rlhf_plugins.trainers.online.trainer import OnlineTrainer
from rlhf_plugins.trainers.ppo.options import Oversight

from . import by_hand
from .conftest import furthest, losses, trained
from .online_parts import FREE, Bases, curve, logged, objective, prompts, samples_of, scores_of, trainer


class Watched(OnlineTrainer):
    """Computes every rollout and every loss a second time, by hand; `pairs` are (ours, by hand)."""

    pairs: list[tuple[float, float]]

    def _roll_out(self, rows: Any) -> Any:
        rollout: Any = super()._roll_out(rows)
        self.seen: list[float] = getattr(self, "seen", [])
        self.by_hand = by_hand.rollout(self, rollout.samples, rollout.rewards.rewards.tolist(), self.seen)
        return rollout

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        assert self._experience is not None
        samples = self._experience.samples
        loss = super()._compute_loss(model, inputs)
        rows = [row for part in inputs for row in part.rows]
        sequences = [(tuple(samples.prompt_ids[i]), tuple(samples.response_ids[i])) for i in rows]
        self.plain = by_hand.loss(self, self.by_hand, sequences)
        self.pairs = [*getattr(self, "pairs", []), (loss.item(), self.plain.item())]
        return loss


@pytest.mark.parametrize(
    "options",
    [
        {"num_iterations": 3},
        {"tokens_per_batch": 24},  # some micro-batches hold a response, some two
        *slow(
            {},
            {"adapter": False},
            {"temperature": 0.7},
            {"per_device_train_batch_size": 4, "steps_per_generation": 3},  # does not hold whole groups of 3
            {"architecture": "mamba", "adapter": False},  # cannot share rows
            {"architecture": "gemma2"},  # caps its logits
        ),
    ],
    ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items()) or "plain",
)
def test_the_loss_is_the_one_computed_by_hand(bases: Bases, tmp_path: Path, options: dict[str, Any]) -> None:
    base = bases(options.pop("architecture", "llama"))
    watched: Any = trainer(base, tmp_path, cls=Watched, **options)
    watched.train()
    mine, plain = zip(*watched.pairs, strict=True)
    assert len(mine) == 6
    assert len({round(loss, 4) for loss in mine}) == 6
    assert mine == pytest.approx(plain, rel=1e-5, abs=1e-5)


class Stepping(Watched):
    """Keeps the weights from which a step starts, and those of plain SGD on the loss that is computed by hand."""

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        loss = super()._compute_loss(model, inputs)
        self.start = trained(self)
        weights = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        slopes = torch.autograd.grad(self.plain, list(weights.values()))
        rate = self.args.learning_rate
        self.end = {n: p.detach() - rate * slope for (n, p), slope in zip(weights.items(), slopes, strict=True)}
        return loss


@pytest.mark.parametrize("adapter", [True, *slow(False)], ids=["lora", "full"])
@pytest.mark.parametrize("steps", [1, 2])  # at the second the ratios are no longer 1
@pytest.mark.parametrize("tokens", [None, 24], ids=["whole", "micro_batches"])
def test_a_step_is_the_one_computed_by_hand(
    bases: Bases, tmp_path: Path, adapter: bool, steps: int, tokens: int | None
) -> None:
    plain = {"optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "learning_rate": 0.3}
    options = {"adapter": adapter, "tokens_per_batch": tokens, "max_steps": steps, **plain}
    found: Any = trainer(bases(), tmp_path, cls=Stepping, **options)
    found.train()
    assert furthest(trained(found), found.end) < 1e-5
    assert furthest(trained(found), found.start) > 1e-2


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_at_the_first_minibatch_nothing_has_moved(bases: Bases, tmp_path: Path, architecture: str) -> None:
    """Ratios of exactly 1 at the first minibatch of each rollout, values and KL 0 at the first rollout."""
    found = trainer(bases(architecture), tmp_path, learning_rate=3e-2)  # gpt2's configuration asks for dropout
    moved = curve(found, "approx_kl")
    assert [value == 0 for value in moved] == [True, False] * 3
    assert logged(found, "clip_fraction")[::2] == [0, 0, 0]
    kl = logged(found, "kl")
    assert kl[0] == pytest.approx(0, abs=1e-5)
    assert kl[1] != pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_dropout_is_disabled_or_refused(bases: Bases, tmp_path: Path, architecture: str) -> None:
    """Llama keeps the dropout of its attention as a number, which `disable_dropout` of TRL leaves on."""
    base = bases(architecture, attention_dropout=0.3) if architecture == "llama" else bases(architecture)
    assert curve(trainer(base, tmp_path, max_steps=1), "approx_kl") == [0]
    with pytest.raises(RunError, match=r"drop\w* is 0\.\d, but without dropout ratios start at 1 online: write"):
        trainer(base, tmp_path, disable_dropout=False)


@pytest.mark.parametrize(("minibatches", "passes"), [(1, 3), (2, 2 + 3 * 2)])
def test_outputs_of_the_only_minibatch_are_not_computed_again(
    bases: Bases, tmp_path: Path, minibatches: int, passes: int
) -> None:
    sizes = {"steps_per_generation": minibatches, "num_iterations": 3, "max_steps": 3 * minibatches}
    found: Any = trainer(bases(), tmp_path, **sizes)
    asked: list[bool] = []
    outputs = found._models.outputs

    def counted(*args: Any, **kwargs: Any) -> Any:
        asked.append(torch.is_grad_enabled())
        return outputs(*args, **kwargs)

    object.__setattr__(found._models, "outputs", counted)
    found.train()
    assert len(asked) == passes
    assert asked.count(True) == 3 * minibatches
    assert found._experience.first is None


@pytest.mark.parametrize("adapter", [True, *slow(False)], ids=["lora", "full"])
@pytest.mark.parametrize("entropy", [*slow(0.0), 0.1])
def test_not_computing_it_again_changes_no_weight(bases: Bases, tmp_path: Path, adapter: bool, entropy: float) -> None:
    class Again(OnlineTrainer):
        def _outputs(self, part: Any) -> Any:
            self._experience.first = None  # type: ignore[union-attr]
            return super()._outputs(part)

    ends = []
    for cls in (OnlineTrainer, Again):
        aim = objective(entropy_coef=entropy)
        sizes = {"steps_per_generation": 1, "num_iterations": 2, "max_steps": 4}
        found: Any = trainer(bases(), tmp_path / cls.__name__, aim, cls=cls, adapter=adapter, **sizes)
        found.train()
        ends.append(trained(found))
    assert furthest(*ends) < 1e-6


def test_the_value_head_is_trained_and_taken_off(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(), tmp_path, max_steps=1)
    assert not any(p.any() for p in found.model.value_head.parameters())
    found.train()
    optimized = {id(p) for group in found.optimizer.param_groups for p in group["params"]}
    head = list(found.model.value_head.parameters())
    assert {id(p) for p in head} <= optimized
    assert all(p.any() for p in head)
    assert found.take_value_head().keys() == {"weight", "bias", "count", "mean", "deviation"}
    assert not hasattr(found.model, "value_head")


@pytest.mark.parametrize("adapter", [True, *slow(False)], ids=["lora", "full"])
def test_the_reference_is_untouched(bases: Bases, tmp_path: Path, adapter: bool) -> None:
    found = trainer(bases(), tmp_path, adapter=adapter)
    found.train()
    frozen = found.model.get_base_model() if adapter else found._models.reference
    base = load_causal(bases()).state_dict()
    kept = {name.replace(".base_layer", ""): p for name, p in frozen.named_parameters() if "lora_" not in name}
    assert all(torch.equal(p, base[name]) for name, p in kept.items())


BIG = {"per_device_train_batch_size": 24, "num_generations": 4, "steps_per_generation": 1, "num_iterations": 2}


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["lora", "full"])
def test_it_climbs_a_reward_that_it_is_shown(bases: Bases, tmp_path: Path, adapter: bool) -> None:
    rewards = curve(trainer(bases(), tmp_path, objective(**FREE), adapter=adapter, max_steps=40, **BIG), "reward")
    assert sum(rewards[-3:]) / 3 > 2 * (sum(rewards[:3]) / 3) + 0.5


@pytest.mark.slow
def test_a_huge_kl_coefficient_holds_the_policy(bases: Bases, tmp_path: Path) -> None:
    options = {**BIG, "max_steps": 20, "learning_rate": 3e-3}
    free, held = (
        curve(trainer(bases(), tmp_path, objective(kl={"use": "in_reward", "coef": kl}, shaping=[]), **options), "kl")[
            -1
        ]
        for kl in (0.0, 100.0)
    )
    assert abs(held) < 0.2 * abs(free)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_curve(bases: Bases, tmp_path: Path) -> None:
    first = trainer(bases(), tmp_path)
    expected = losses(first)
    second = trainer(bases(), tmp_path)
    assert losses(second) == expected
    assert furthest(trained(first), trained(second)) == 0


def test_every_end_token_of_the_model_ends_a_response(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(pad_is_eos=True), tmp_path)
    assert found.eos_token_ids == [by_hand.EOS]
    samples = samples_of(found, [row["prompt"] for row in prompts()])
    assert all(by_hand.EOS not in ids[:-1] for ids in samples.response_ids)
    assert any(ids[-1] == by_hand.EOS for ids in samples.response_ids)


class Short(Advantage, reads_values=True):
    def __call__(self, rollout: Rollout) -> Advantages:
        return Advantages(rollout.rewards[:, 0], rollout.rewards)


class Raising(Advantage, reads_values=True):
    def __call__(self, rollout: Rollout) -> Advantages:
        raise KeyError("gamma")


class Endless(Advantage, reads_values=True):
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
        trainer(bases(), tmp_path, objective(advantage=advantage)).train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_generations": 5}, "OnlineConfig refuses these options: a rollout has"),
        (
            {"per_device_train_batch_size": 60},
            "^there are 12 prompts, but a rollout takes 40: try a smaller",
        ),
    ],
)
def test_a_rollout_that_cannot_be_filled_is_refused(
    bases: Bases, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RlhfError, match=message):
        trainer(bases(), tmp_path, **options)


def test_the_guide_says_how_to_read_every_curve(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(), tmp_path, max_steps=2, oversight=Oversight(gold=lambda *_: {"total": 1.0}))
    curves = record_curves(found, lambda *_: None)
    found.train()
    guide = (Path(__file__).parents[2] / "docs" / "curves.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (`.*?) \|", guide.partition("## How to read the curves")[2].partition("\n## ")[0], re.MULTILINE
    )
    sometimes = {"abstained", "too_few_siblings", "without_baseline", "update_share", "constrained_kl"}
    sometimes |= {"reward/NAME", "reward_missing/NAME"}  # of a reward with parts
    filtered = {"equal_siblings", "truncated", "resampled", "unfilled"}  # with `equal_groups` and `truncated`
    explained = {name for row in rows for name in re.findall(r"`([^`]+)`", row)} - sometimes - filtered
    assert explained == curves.values.keys() - {"train_loss"}


NAMES = registry().names("advantage")
FEW = ("gae", "grpo", "rloo")


@pytest.mark.parametrize("name", NAMES)
def test_every_estimator_trains_and_those_without_a_critic_load_none(bases: Bases, tmp_path: Path, name: str) -> None:
    estimator = component("advantage", name)
    found = trainer(bases(), tmp_path, objective(advantage=estimator), max_steps=2)
    assert [n for n, _ in found.model.named_parameters() if "value_head" in n] == (
        ["value_head.weight", "value_head.bias"] if estimator.reads_values else []
    )
    found.train()
    assert ("value_loss" in found.state.log_history[0]) == estimator.reads_values
    assert bool(found.take_value_head()) == estimator.reads_values


@pytest.mark.parametrize("name", [name if name in FEW else slow(name)[0] for name in NAMES])
def test_one_response_a_prompt_is_enough_or_refused(bases: Bases, tmp_path: Path, name: str) -> None:
    estimator = component("advantage", name)
    options = {"num_generations": 1, "per_device_train_batch_size": 3, "steps_per_generation": 1, "max_steps": 2}
    if estimator.min_group > 1:
        with pytest.raises(RunError, match="num_generations is 1, and it needs 2 or more"):
            trainer(bases(), tmp_path, objective(advantage=estimator), **options)
    else:
        assert len(losses(trainer(bases(), tmp_path, objective(advantage=estimator), **options))) == 2


def test_remax_is_given_the_greedy_responses_scores(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(), tmp_path, objective(advantage="remax"))
    samples = Samples(["how"] * 3 + ["is ant"] * 3, ["x"] * 6, [[15]] * 3 + [[16, 3]] * 3, [[3, 4]] * 6)
    scored = scores_of(found, samples)
    assert len(scored.rewards.scores) == 6
    assert scored.baseline is not None
    for prompt, score in zip(["how", "is ant"], scored.baseline.tolist()[::3], strict=True):
        ids = found._tokenizer(prompt, return_tensors="pt")
        written = found.model.generate(**ids, do_sample=False, max_new_tokens=6)[0, ids["input_ids"].shape[1] :]
        text = found._tokenizer.decode(written, skip_special_tokens=True)
        assert score == pytest.approx(text.split().count("ant") - 0.7 * (by_hand.EOS not in written))
