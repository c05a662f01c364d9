"""The order of training: nothing dropped, losses in time, a seed that decides all, and a broken component named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from rlhf_plugins.contract.interfaces import Sampler
from rlhf_plugins.contract.records import SamplerState
from rlhf_plugins.errors import DataError, PluginError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.trainers.steps.draws import Draws, Examples, standardised

NAN, INF = float("nan"), float("inf")


@dataclass
class Listening(Sampler):
    """Draws the first that remain, and keeps every draw."""

    heard: list[SamplerState] = field(default_factory=list)

    def __call__(self, draw: SamplerState) -> np.ndarray:
        self.heard.append(draw)
        return np.flatnonzero(draw.remaining)[: draw.size]

    @property
    def known(self) -> list[int]:
        """How many losses each draw knew."""
        return [int(np.isfinite(draw.loss).sum()) for draw in self.heard]


@dataclass
class Shuffling(Sampler):
    """Draws at random of what remains, and counts its draws."""

    count: int = 0

    def __call__(self, draw: SamplerState) -> np.ndarray:
        self.count += 1
        return draw.rng.permutation(np.flatnonzero(draw.remaining))[: draw.size]

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


@dataclass
class Answering(Sampler):
    """Draws what the test wants."""

    answer: Callable[[SamplerState], Any]

    def __call__(self, draw: SamplerState) -> Any:
        return self.answer(draw)


def draws(sampler: Sampler, n: int = 7, batch_size: int = 3, planned: int = 14, seed: int = 0) -> Draws:
    return Draws(sampler, Examples([*range(n)], [None] * n, [None] * n), batch_size, planned, seed)


def test_an_epoch_in_batches_of_which_the_last_is_smaller() -> None:
    listening = Listening()
    made = draws(listening)
    assert len(made) == 7
    assert [*made] == [0, 1, 2, 3, 4, 5, 6]
    assert [draw.size for draw in listening.heard] == [3, 3, 1]
    assert [draw.remaining.sum() for draw in listening.heard] == [7, 4, 1]


def test_progress_is_the_share_drawn_of_all_that_is_planned() -> None:
    listening = Listening()
    made = draws(listening, planned=10)
    assert [*made] == [*made]
    assert [draw.progress for draw in listening.heard] == [0.0, 0.3, 0.6, 0.7, 1.0, 1.0]


def test_progress_ends_at_1_where_less_was_planned_than_is_drawn() -> None:
    listening = Listening()
    assert len([*draws(listening, planned=0)]) == 7
    assert [draw.progress for draw in listening.heard] == [0.0, 1.0, 1.0]


def test_what_is_known_of_the_examples_reaches_the_component() -> None:
    """Difficulties of 1 and 3 have mean 2 and standard deviation 1."""
    listening = Listening()
    [*Draws(listening, Examples([5, 9, 2], [1.0, None, 3.0], ["law", None, "law"]), 3, 3, 0)]
    draw = listening.heard[0]
    assert draw.length.tolist() == [5, 9, 2]
    assert draw.difficulty.tolist() == pytest.approx([-1, 0, 1])
    assert draw.topic.tolist() == [0, 1, 0]


def test_a_loss_reaches_the_next_draw_of_the_epoch() -> None:
    listening = Listening()
    made = draws(listening, n=4, batch_size=2)
    rows = iter(made)
    assert [next(rows), next(rows)] == [0, 1]
    made.observe([0, 1], [0.25, INF])
    assert [*rows] == [2, 3]
    np.testing.assert_array_equal(listening.heard[0].loss, [NAN] * 4)
    np.testing.assert_array_equal(listening.heard[1].loss, [0.25, NAN, NAN, NAN])


def test_a_loss_that_is_not_finite_leaves_the_last_one() -> None:
    listening = Listening()
    made = draws(listening)
    made.observe([6, 2], [1.5, 0.5])
    made.observe([2, 6], [NAN, 2.5])
    made.observe([], [])
    next(iter(made))
    np.testing.assert_array_equal(listening.heard[0].loss, [NAN, NAN, 0.5, NAN, NAN, NAN, 2.5])


NAMES = ["shuffled", "length_grouped", "curriculum", "hard_mining", "dynamic"]


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 1000), n=st.integers(1, 20), batch_size=st.integers(1, 25))
def test_the_seed_decides_every_epoch(name: str, seed: int, n: int, batch_size: int) -> None:
    one, other = (draws(component("sampler", name), n, batch_size, seed=seed) for _ in range(2))
    first, second = [*one], [*one]
    assert [first, second] == [[*other], [*other]]
    assert len(first) == len(second) == n
    assert name in NAMES[3:] or sorted(first) == sorted(second) == [*range(n)]


def test_epochs_and_seeds_differ() -> None:
    one, other = (draws(component("sampler", "shuffled"), n=50, seed=seed) for seed in (0, 1))
    assert len({tuple(made) for made in (one, one, other, other)}) == 4


def test_an_epoch_that_is_set_is_drawn_as_if_those_before_had_been() -> None:
    one, other = (draws(component("sampler", "curriculum")) for _ in range(2))
    epochs = [[*one] for _ in range(3)]
    other.set_epoch(2)
    assert [*other] == epochs[2]


def test_hard_mining_comes_back_to_what_is_hard_and_has_seen_everything() -> None:
    made = draws(component("sampler", {"use": "hard_mining", "temperature": 0.5}), n=20, batch_size=1)
    counts = np.zeros(20, dtype=int)
    for _ in range(20):
        for row in made:
            counts[row] += 1
            made.observe([row], [2.0 if row == 7 else 0.1])
    assert counts.min() > 0
    assert counts[7] == counts.max() > 200  # exp(3.8) = 45 times as likely as each of 19: 28 of 40 draws


WRONG: list[tuple[Callable[[SamplerState], Any], str]] = [
    (lambda draw: [0, 1, 2], "gave a list, not an array"),
    (lambda draw: np.arange(2), r"gave shape \(2,\) of int64, not \(3,\) integers"),
    (lambda draw: np.zeros((3, 1), int), r"gave shape \(3, 1\) of int64, not \(3,\) integers"),
    (lambda draw: np.arange(3.0), r"gave shape \(3,\) of float64, not \(3,\) integers"),
    (lambda draw: draw.remaining[:3], r"gave shape \(3,\) of bool, not \(3,\) integers"),
    (lambda draw: np.array([0, 7, 1]), "gave row 7 of 7 examples"),
    (lambda draw: np.array([0, -1, 1]), "gave row -1 of 7 examples"),
    (lambda draw: draw.loss[99], "failed: IndexError"),
    (lambda draw: draw.remaining.fill(True), "failed: ValueError: .* read-only"),
]


@pytest.mark.parametrize(("answer", "message"), WRONG)
def test_a_broken_component_is_named(answer: Callable[[SamplerState], Any], message: str) -> None:
    with pytest.raises(PluginError, match=rf"^Answering of .*test_draws {message}"):
        next(iter(draws(Answering(answer))))


def test_repeats_and_small_unsigned_numbers_are_rows() -> None:
    assert [*draws(Answering(lambda draw: np.full(draw.size, 5, np.uint8)))] == [5] * 7


@pytest.mark.parametrize(
    ("difficulty", "expected"),
    [
        ([1.0, 3.0], [-1, 1]),
        ([1.0, NAN, 3.0], [-1, 0, 1]),  # missing: as hard as the mean
        ([4.0, 4.0, None], [0, 0, 0]),
        ([0.1, 0.1, 0.1], [0, 0, 0]),  # whose mean is not 0.1
        ([None, None], [0, 0]),
        ([2e307, -2e307], [1, -1]),
        ([], []),
    ],
)
def test_difficulties_by_hand(difficulty: list[float | None], expected: list[float]) -> None:
    assert standardised(difficulty).tolist() == pytest.approx(expected)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2).filter(lambda values: max(values) - min(values) > 1e-3))
def test_difficulties_have_mean_0_and_deviation_1(difficulty: list[float]) -> None:
    made = standardised(difficulty)
    assert made.mean() == pytest.approx(0, abs=1e-6)
    assert made.std() == pytest.approx(1)


def test_an_infinite_difficulty_is_refused() -> None:
    with pytest.raises(DataError, match="difficulty of example 1 is -inf"):
        standardised([0.0, -INF])


def test_ragged_columns_are_refused() -> None:
    with pytest.raises(DataError, match="unequal number: {'length': 2, 'difficulty': 1, 'topic': 2}"):
        Draws(Listening(), Examples([1, 2], [0.0], ["a", "b"]), 1, 2, 0)


def test_no_examples_make_an_empty_epoch() -> None:
    assert [*draws(Listening(), n=0)] == []


def test_a_training_that_goes_on_draws_what_another_would() -> None:
    """Four of seven are drawn when it ends, two at a time: these come first, then the other three, then next epochs."""
    made, other = (draws(Shuffling(), batch_size=2) for _ in range(2))
    epoch = iter(made)
    first = [next(epoch) for _ in range(3)]
    made.observe(first, [0.1, 0.2, NAN])
    state = made.state_dict()
    whole = [*first, *epoch]
    other.load_state_dict(state)
    other.set_epoch(0)
    assert sorted(whole) == [*range(7)]
    assert ([*other], [*other], [*other]) == (whole, [*made], [*made])
    assert other.state_dict()["own"] == {"count": 12} == made.state_dict()["own"]
    assert other.state_dict()["loss"][first] == pytest.approx([0.1, 0.2, NAN], nan_ok=True)
    assert len(state["drawn"]) == 4


def test_accelerates_loader_asks_one_batch_ahead() -> None:
    """The first two draws know nothing, the third the 2 losses of the first batch; the next epoch knows all."""
    listening = Listening()
    made = draws(listening, n=8, batch_size=2)
    loader = Accelerator(cpu=True).prepare(DataLoader(torch.arange(8), batch_size=2, sampler=made))  # type: ignore[arg-type]
    for _ in range(2):
        for batch in loader:
            made.observe(batch.tolist(), [0.5] * len(batch))
    assert listening.known == [0, 0, 2, 4, 8, 8, 8, 8]


class Linear(nn.Module):
    """Learns to answer 0, and tells the loss of each example of each batch."""

    def __init__(self, made: Draws) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.made, self.seen = made, list[list[int]]()

    def forward(self, row: Tensor) -> dict[str, Tensor]:
        losses = (self.weight * row) ** 2
        self.made.observe(row.tolist(), losses.tolist())
        self.seen.append(row.tolist())
        return {"loss": losses.mean()}


def trained(folder: Path, made: Draws, **options: Any) -> Linear:
    class Ours(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return made

    rows = [{"row": float(row)} for row in range(len(made))]
    given = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "learning_rate": 1e-6}
    model = Linear(made)
    args = TrainingArguments(str(folder), per_device_train_batch_size=2, num_train_epochs=2, **given, **options)
    Ours(model, args, train_dataset=rows).train()
    return model


def test_the_trainer_draws_each_epoch_once_and_tells_its_losses(tmp_path: Path) -> None:
    listening = Listening()
    model = trained(tmp_path, draws(listening, n=5, batch_size=2, planned=10))
    assert model.seen == [[0, 1], [2, 3], [4]] * 2
    assert listening.known == [0, 0, 2, 5, 5, 5]
    assert [draw.progress for draw in listening.heard] == [0, 0.2, 0.4, 0.5, 0.7, 0.9]


def test_accumulation_draws_a_step_and_a_batch_ahead(tmp_path: Path) -> None:
    """Batches 1 to 3 are drawn before the first step trains on 1 and 2; batch 4, and 5 ahead of it, know these."""
    listening = Listening()
    trained(tmp_path, draws(listening, n=12, batch_size=2, planned=24), gradient_accumulation_steps=2)
    assert listening.known[:6] == [0, 0, 0, 4, 4, 8]
