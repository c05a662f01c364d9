"""A last-token scalar model under Bradley-Terry is TRL's RewardTrainer step by step; where not, ours is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from marks import slow
from peft import get_peft_model
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification
from trl_rows import preference_dataset

from rlhf_plugins.arithmetic.ranking import map_tensors
from rlhf_plugins.contract.records import RankedScores
from rlhf_plugins.contract.rows import Group, Samples
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.data.batches.branches import BranchBatch, PromptBranches, collate
from rlhf_plugins.data.batches.tokens import samples_of
from rlhf_plugins.engine.weights.loading import load_row_encoder, load_tokenizer, load_trunk, lora_config
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.testing import tiny_pairs
from rlhf_plugins.trainers.arguments import arguments
from rlhf_plugins.trainers.reward.losses import member

from .conftest import OPTIONS, furthest, losses, ranked, reward_trainer, trained

Bases = Callable[..., Base]
PAIRS = tiny_pairs(24)
MARGINS = tuple(replace(pair, margin=float(i % 3)) for i, pair in enumerate(PAIRS))


def classifier(base: Base, adapter: bool) -> Any:
    """TRL's own kind of reward model."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base.path, num_labels=1, dtype=torch.float32)
    if not adapter:
        return model
    config = lora_config(Adapter(r=4), "SEQ_CLS")
    config.modules_to_save = ["score"]
    return get_peft_model(model, config)


def twin(base: Base, stock: Any, adapter: bool) -> RewardModel:
    """Our reward model with the same weights."""
    trunk = load_trunk(base)
    trunk = get_peft_model(trunk, lora_config(Adapter(r=4), "FEATURE_EXTRACTION")) if adapter else trunk
    model = RewardModel(trunk, component("pooling", "last_token"), component("reward_head", "scalar"))
    weights = {ours(name): value for name, value in stock.state_dict().items()}
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model


def ours(name: str) -> str:
    """Our name of a weight of a sequence classifier."""
    if "score" in name:
        return "head.weight" if "original_module" not in name else name
    return "trunk." + name.replace("base_model.model.model.", "base_model.model.").removeprefix("model.")


def pair_of_trainers(
    base: Base, folder: Path, groups: Sequence[Group], loss: str, adapter: bool, **options: Any
) -> list[Any]:
    args, rows = {**OPTIONS, **options}, ranked(base, groups, options.get("max_length"))
    stock = classifier(base, adapter)
    model = twin(base, stock, adapter)
    configs = [arguments(trl.RewardConfig, folder, 0, args) for _ in range(2)]
    given = {"train_dataset": preference_dataset(groups), "processing_class": load_tokenizer(base)}
    mine = reward_trainer(model, component("reward_loss", loss), configs[0], rows, load_tokenizer(base))
    return [trl.RewardTrainer(model=stock, args=configs[1], **given), mine]


@pytest.mark.parametrize(
    ("loss", "groups", "adapter"),
    [
        ("bradley_terry", PAIRS, True),
        ("bradley_terry_margin", MARGINS, False),
        *slow(("bradley_terry", PAIRS, False), ("bradley_terry_margin", MARGINS, True)),
    ],
)
def test_every_step_is_stock_trl(
    bases: Bases, tmp_path: Path, loss: str, groups: tuple[Group, ...], adapter: bool
) -> None:
    theirs, mine = pair_of_trainers(bases(), tmp_path, groups, loss, adapter, max_length=12)
    before = trained(mine)
    assert losses(mine) == pytest.approx(losses(theirs), rel=1e-5, abs=1e-5)
    assert furthest(trained(mine), {ours(name): value for name, value in trained(theirs).items()}) < 1e-4
    assert furthest(trained(mine), before) > 5e-3
    assert len(mine.train_dataset) == len(theirs.train_dataset) < 24


def test_where_padding_is_eos_stock_scores_one_token_early(bases: Bases) -> None:
    base = bases(pad_is_eos=True)
    stock = classifier(base, adapter=False).eval()
    eos = stock.config.pad_token_id = load_tokenizer(base).pad_token_id
    model = twin(base, stock, adapter=False).eval()
    states = stock.model(torch.tensor([[5, 6, 7, eos]])).last_hidden_state[0]
    seventh, end = (states[[-2, -1]] @ stock.score.weight[0]).tolist()
    batch = BranchBatch.from_inputs(collate([PromptBranches([5, 6], [[7, eos], [7, 8, 9, eos]])], eos))
    assert model(batch).reward[0].item() == pytest.approx(end, abs=1e-5)
    assert stock(torch.tensor([[5, 6, 7, eos]])).logits.item() == pytest.approx(seventh, abs=1e-5)
    assert abs(seventh - end) > 0.1


def test_rows_without_a_margin_leave_the_others_theirs(bases: Bases, tmp_path: Path) -> None:
    groups = [replace(pair, margin=margin) for pair, margin in zip(PAIRS[:4], (None, 2.0, None, 0.5), strict=True)]
    model = twin(bases(), classifier(bases(), adapter=False), adapter=False)
    loss = component("reward_loss", "bradley_terry_margin")
    args = arguments(trl.RewardConfig, tmp_path, 0, {**OPTIONS, "max_steps": 1})
    trainer = reward_trainer(model, loss, args, ranked(bases(), groups), load_tokenizer(bases()))
    batch = trainer.data_collator(list(trainer.train_dataset))
    gap = model(BranchBatch.from_inputs(batch)).reward.detach().view(-1, 2) @ torch.tensor([1.0, -1.0])
    assert batch["margin"].tolist() == [0, 2, 0, 0.5]
    expected = -logsigmoid(gap - torch.tensor([0, 2, 0, 0.5])).mean()
    assert losses(trainer) == [pytest.approx(float(expected), rel=1e-5)]


def test_trained_in_half_precision_it_scores_as_it_does_reloaded(bases: Bases, tmp_path: Path) -> None:
    model = twin(bases(), classifier(bases(), adapter=True), adapter=True)
    args = arguments(trl.RewardConfig, tmp_path, 0, {**OPTIONS, "bf16": True})
    loss = component("reward_loss", "bradley_terry")
    reward_trainer(model, loss, args, ranked(bases(), PAIRS), load_tokenizer(bases())).train()
    again = twin(bases(), classifier(bases(), adapter=True), adapter=True)
    again.load_state_dict(model.state_dict())
    samples = Samples([""] * 2, [""] * 2, [[15, 16]] * 2, [[3, 4, 1], [5, 1]])
    assert model.score(samples, 0) == again.score(samples, 0)


@pytest.mark.parametrize(
    ("architecture", "pooling"),
    [
        ("qwen3", "last_token"),
        ("gpt2", "mean"),
        *slow(("qwen3", "mean"), ("gpt2", "last_token"), ("mamba", "last_token"), ("mamba", "mean")),
    ],
)
def test_it_learns_to_tell_good_from_bad(bases: Bases, tmp_path: Path, architecture: str, pooling: str) -> None:
    torch.manual_seed(0)
    base = bases(architecture)
    model = RewardModel(load_trunk(base), component("pooling", pooling), component("reward_head", "scalar"))
    args = arguments(trl.RewardConfig, tmp_path, 0, {**OPTIONS, "max_steps": 30, "per_device_train_batch_size": 8})
    loss = component("reward_loss", "bradley_terry")
    logged = losses(reward_trainer(model, loss, args, ranked(base, tiny_pairs(64)), load_tokenizer(base)))
    assert sum(logged[-5:]) < 0.7 * sum(logged[:5])


def test_rankings_of_any_size_are_centred_pair_by_pair(bases: Bases, tmp_path: Path) -> None:
    """Groups of three, two and three responses, whose scores are padded: the mean square of a pair's sum is added, of a
    tied pair too."""
    said = ("ant bee", "mud", "cat dog")
    groups = [
        Group(prompt, said[:size], (0, 1, 1)[:size]) for prompt, size in (("how\n", 3), ("is\n", 2), ("dog\n", 3))
    ]
    found = []
    for coefficient in (None, 0.5):
        model = twin(bases(), classifier(bases(), False), False)
        options = {**OPTIONS, "max_steps": 1, "learning_rate": 0.0, "center_rewards_coefficient": coefficient}
        args, rows = arguments(trl.RewardConfig, tmp_path, 0, options), ranked(bases(), groups)
        loss = component("reward_loss", "bradley_terry")
        found += losses(reward_trainer(model, loss, args, rows, load_tokenizer(bases())))
    encoder = load_row_encoder(bases())
    each = [model.predict(samples_of([group], encoder), 0).reward for group in groups]
    sums = [torch.combinations(rewards).sum(1).square().mean() for rewards in each]
    assert found[1] - found[0] == pytest.approx(0.5 * float(torch.stack(sums).mean()), rel=1e-3)


def test_a_member_of_an_ensemble_of_heads_learns_from_its_own_dimensions() -> None:
    multi = {"use": "multi", "dimensions": ["helpful", "honest"]}
    heads = component("reward_head", {"use": "ensemble", "members": 3, "head": multi}).build(4)
    found = map_tensors(heads(torch.randn(4, 4)), lambda values: values.unflatten(0, (2, 2)))  # 2 pairs
    own = member(RankedScores.of(found.reward, prediction=found), 1).prediction
    assert own is not None
    own.dimensions["honest"].sum().backward()
    assert [head.linear.weight.grad is not None for head in heads.heads] == [False, True, False]
