"""`dpo` and `ipo_per_token` are TRL's `sigmoid` and `ipo`, step by step and to the last weight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from marks import slow
from torch import Tensor
from trl_rows import preference_dataset

from rlhf_plugins.contract.interfaces import PreferenceLoss
from rlhf_plugins.contract.records import PairLogps
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.data.batches.branches import Layout
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer, lora_config
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_pairs
from rlhf_plugins.trainers.arguments import arguments
from rlhf_plugins.trainers.preference.batch import Collator, separate, with_room
from rlhf_plugins.trainers.preference.trainer import PreferenceTrainer

from .conftest import OPTIONS, furthest, losses, trained

Bases = Callable[..., Base]
BETA = 0.3
NAMES = {"sigmoid": "dpo", "ipo": "ipo_per_token"}


def rows() -> Dataset:
    return preference_dataset(tiny_pairs(24))


def parts(base: Base, folder: Path, **options: Any) -> dict[str, Any]:
    """What stock DPOTrainer and ours are both given."""
    adapter = options.pop("adapter", True)
    return {
        "model": load_causal(base),
        "args": arguments(trl.DPOConfig, folder, 0, {**OPTIONS, "beta": BETA, **options}),
        "peft_config": lora_config(Adapter(r=4), "CAUSAL_LM") if adapter else None,
        "ref_model": None if adapter else load_causal(base),
    }


def stock(base: Base, folder: Path, loss_type: str, **options: Any) -> trl.DPOTrainer:
    given = parts(base, folder, loss_type=[loss_type], **options)
    return trl.DPOTrainer(**given, train_dataset=rows(), processing_class=load_tokenizer(base))


def ours(base: Base, folder: Path, loss: PreferenceLoss, **options: Any) -> PreferenceTrainer:
    given = parts(base, folder, **options)
    return PreferenceTrainer(**given, train_dataset=rows(), processing_class=load_tokenizer(base), loss=loss)


def assert_equal(base: Base, folder: Path, loss_type: str, **options: Any) -> None:
    loss = component("preference_loss", {"use": NAMES[loss_type], "beta": BETA})
    theirs, mine = stock(base, folder, loss_type, **options), ours(base, folder, loss, **options)
    before = trained(mine)
    assert losses(mine) == pytest.approx(losses(theirs), rel=1e-5, abs=1e-5)
    assert furthest(trained(mine), trained(theirs)) < 1e-4
    assert furthest(trained(mine), before) > 5e-3  # it really trained


@pytest.mark.parametrize(
    ("loss_type", "adapter"), [("sigmoid", True), ("ipo", False), *slow(("sigmoid", False), ("ipo", True))]
)
def test_every_step_is_stock_trl(bases: Bases, tmp_path: Path, loss_type: str, adapter: bool) -> None:
    assert_equal(bases(), tmp_path, loss_type, adapter=adapter)


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_accumulation_steps": 2},
        {"max_length": 6, "truncation_mode": "keep_end"},
        *slow(
            {"precompute_ref_log_probs": True},
            {"precompute_ref_log_probs": True, "adapter": False},
            {"max_length": 10, "truncation_mode": "keep_start"},
        ),
    ],
    ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items()),
)
def test_so_it_is_under_trls_options(bases: Bases, tmp_path: Path, options: dict[str, Any]) -> None:
    assert_equal(bases(), tmp_path, "sigmoid", **options)


@pytest.mark.parametrize("architecture", [*slow("gpt2", "gemma2"), "mamba"])
def test_so_it_is_for_other_architectures(bases: Bases, tmp_path: Path, architecture: str) -> None:
    loss = component("preference_loss", {"use": "dpo", "beta": BETA})
    options = {"max_steps": 3, "learning_rate": 1e-3, "adapter": architecture != "mamba"}
    theirs, mine = (make(bases(architecture), tmp_path, x, **options) for make, x in ((stock, "sigmoid"), (ours, loss)))
    assert losses(mine) == pytest.approx(losses(theirs), rel=1e-4, abs=1e-5)


def test_pad_equal_to_eos_changes_nothing(bases: Bases, tmp_path: Path) -> None:
    loss = component("preference_loss", "dpo")
    found = [losses(ours(bases(pad_is_eos=pad), tmp_path, loss, max_steps=3)) for pad in (False, True)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_summed_ipo_is_the_papers(bases: Bases, tmp_path: Path) -> None:
    """At the first step of an untrained adapter h = 0 and the loss (1 / (2 beta))^2 = 25; later it is the book's."""
    seen: list[tuple[float, float]] = []

    class Watched(PreferenceLoss):
        def __call__(self, logps: PairLogps) -> Tensor:
            loss = component("preference_loss", {"use": "ipo", "beta": 0.1})(logps)
            h = logps.chosen - logps.rejected - logps.ref_chosen + logps.ref_rejected
            seen.append((float(loss.mean()), float(((h - 5) ** 2).mean())))
            return loss

    logged = losses(ours(bases(), tmp_path, Watched()))
    assert logged[0] == pytest.approx(25)
    assert [loss for loss, _ in seen] == pytest.approx([plain for _, plain in seen])
    assert logged == pytest.approx([loss for loss, _ in seen])


def test_an_entropy_bonus_is_of_the_models_own_distributions(bases: Bases, tmp_path: Path) -> None:
    """The loss of the first step, and its gradient, from the plain logits of the one pair; then the entropy rises."""
    loss = component("preference_loss", "entropy")
    given = parts(bases(), tmp_path, adapter=False, max_grad_norm=1e9) | {"ref_model": None}
    rows_of_one = rows().select([0])
    trainer = PreferenceTrainer(
        **given, train_dataset=rows_of_one, processing_class=load_tokenizer(bases()), loss=loss, tokens_per_batch=None
    )
    plain, row = load_causal(bases()), trainer.train_dataset[0]
    expected = -(_entropy(plain, row, "chosen_ids") + _entropy(plain, row, "rejected_ids")) / 2
    expected.backward()
    norm = torch.stack([p.grad.norm() for p in plain.parameters() if p.grad is not None]).norm()
    found = losses(trainer)
    assert found[0] == pytest.approx(expected.item(), rel=1e-5)
    assert trainer.state.log_history[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert found[-1] < found[0]


def _entropy(model: Any, row: dict[str, Any], side: str) -> Tensor:
    """Mean over a response's tokens, in nats."""
    ids = torch.tensor([row["prompt_ids"] + row[side]])
    logits = model(input_ids=ids).logits[0, len(row["prompt_ids"]) - 1 : -1]
    return torch.distributions.Categorical(logits=logits).entropy().mean()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_curve(bases: Bases, tmp_path: Path) -> None:
    loss = component("preference_loss", "dpo")
    assert losses(ours(bases(), tmp_path, loss)) == losses(ours(bases(), tmp_path, loss))


def test_what_is_left_out_is_counted(bases: Bases, tmp_path: Path) -> None:
    """Prompts have 1 to 7 words; 5 tokens leave those of 5 and more no room."""
    loss, prompts = component("preference_loss", "dpo"), [len(row["prompt"].split()) for row in rows()]
    left_out = ours(bases(), tmp_path, loss, max_length=5).left_out(len(prompts))
    assert left_out["prompt fills max_length"] == sum(length >= 5 for length in prompts) > 0
    assert left_out["cut at max_length"] > 0


ROW = {"prompt_ids": [1, 2, 3], "chosen_ids": [4, 5, 6, 7], "rejected_ids": [8]}


@pytest.mark.parametrize(
    ("mode", "longest", "kept"),
    [
        ("keep_start", 5, [([1, 2, 3], [4, 5]), ([1, 2, 3], [8])]),
        ("keep_start", 2, [([1, 2], [0]), ([1, 2], [0])]),  # 0 is the padding, where nothing is left
        ("keep_end", 5, [([3], [4, 5, 6, 7]), ([1, 2, 3], [8])]),
        ("keep_end", 3, [([5], [6, 7]), ([2, 3], [8])]),
        ("keep_end", 7, [([1, 2, 3], [4, 5, 6, 7]), ([1, 2, 3], [8])]),
    ],
)
def test_rows_are_cut_as_trl_cuts_them(mode: str, longest: int, kept: list[tuple[list[int], list[int]]]) -> None:
    batch = Collator(0, longest, mode, layout=Layout.SEPARATE)([ROW])
    read, scored = batch["mask"] & ~batch["response"], batch["response"]
    ids = batch["input_ids"].flatten()[batch["index"]]
    assert [(ids[i][read[i]].tolist(), ids[i][scored[i]].tolist()) for i in range(2)] == kept


@pytest.mark.parametrize(
    ("longest", "mode", "kept"),
    [(3, "keep_start", [1, 2]), (3, "keep_end", [1, 2, 3, 4]), (None, "keep_start", [1, 2, 3, 4])],
)
def test_rows_with_tokens_are_kept_where_their_prompt_leaves_room(longest: Any, mode: str, kept: list[int]) -> None:
    data = Dataset.from_list([{"prompt_ids": [5] * count} for count in range(1, 5)])
    args = SimpleNamespace(max_length=longest, truncation_mode=mode)
    for rows in (data, data.to_iterable_dataset()):
        assert [len(row["prompt_ids"]) for row in with_room(rows, args)] == kept
    args.max_length = 1
    if mode == "keep_start":
        with pytest.raises(RunError, match=r"every prompt fills max_length \(1\): write a larger one, or null"):
            with_room(data, args)
        assert list(with_room(data.to_iterable_dataset(), args)) == []  # a stream is not counted


@pytest.mark.parametrize(("longest", "cut"), [(None, False), (7, False), (6, True), (4, True)])
def test_a_row_is_cut_where_its_longer_response_does_not_fit(longest: int | None, cut: bool) -> None:
    swapped = {**ROW, "chosen_ids": ROW["rejected_ids"], "rejected_ids": ROW["chosen_ids"]}
    collator = Collator(0, longest, "keep_start", Layout.PACKED)
    assert [collator.is_cut(row) for row in (ROW, swapped)] == [cut, cut]


@pytest.mark.parametrize(
    ("row", "sequences", "lengths", "scored"),
    [
        (([1], [], [2]), [[1, 0], [1, 2]], [0, 1], [False, True]),  # 0 is the padding, which is not scored
        (([], [3, 4], [3, 5]), [[3, 4], [3, 5]], [2, 2], [True, True]),  # nothing predicts the first token
        (([], [3, 4], [5]), [[3, 4], [5, 0]], [2, 1], [True, False]),
    ],
)
def test_a_row_without_a_prompt_or_a_response_has_one_token_of_each(
    row: tuple[list[int], ...], sequences: list[list[int]], lengths: list[int], scored: list[bool]
) -> None:
    batch = Collator(0, None, "keep_start", Layout.PACKED)([dict(zip(ROW, row, strict=True))])
    assert batch["input_ids"].flatten()[batch["index"]].tolist() == sequences
    assert (batch["lengths"].tolist(), batch["scored"].tolist()) == (lengths, scored)
    plain = separate([batch], pad_id=9)
    assert [r[m.bool()].tolist() for r, m in zip(*plain.values(), strict=True)] == [
        [*row[0], *response] for response in row[1:]
    ]


def test_known_reference_log_probabilities_reach_the_loss() -> None:
    batch = Collator(0, None, "keep_start", layout=Layout.PACKED)(
        [{**ROW, "ref_chosen_logps": -1.5, "ref_rejected_logps": -2.5}]
    )
    torch.testing.assert_close(batch["ref_chosen_logps"], torch.tensor([-1.5]))
    torch.testing.assert_close(batch["ref_rejected_logps"], torch.tensor([-2.5]))


def test_what_a_row_lacks_is_a_sure_label_and_no_margin() -> None:
    given = [{**ROW, "probability": None, "margin": None}, {**ROW, "probability": 0.0, "margin": 2.0}]
    batch = Collator(0, None, "keep_start", layout=Layout.PACKED)(given)
    assert (batch["probability"].tolist(), batch["margin"].tolist()) == ([1, 0], [0, 2])


def test_rows_in_trls_layout_are_all_chosen_before_all_rejected_of_each_part() -> None:
    rows = [{"prompt_ids": [1], "chosen_ids": [10 + i], "rejected_ids": [20 + i, 5]} for i in range(3)]
    collator = Collator(0, None, "keep_start", layout=Layout.PACKED)
    plain = separate([collator(rows[:2]), collator(rows[2:])], pad_id=9)
    assert plain["input_ids"].tolist() == [
        *([1, 10 + i, 9] for i in range(3)),
        *([1, 20 + i, 5] for i in range(3)),
    ]
    assert plain["attention_mask"].tolist() == [[1, 1, 0]] * 3 + [[1, 1, 1]] * 3
