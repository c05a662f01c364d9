"""A script's rows are refused with row and column before TRL reads them; what may be missing may be."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, IterableDataset
from torch import Tensor
from trl import DPOConfig, GRPOConfig, RewardConfig

from rlhf_plugins import (
    DataError,
    OnlineTrainer,
    PreferenceTrainer,
    RankedScores,
    RewardLoss,
    RewardTrainer,
    component,
)
from rlhf_plugins.trainers.given_rows import Rows

ROW = {"prompt": "how ", "chosen": "ant", "rejected": "gas"}
KINDS = {RewardTrainer: RewardConfig, PreferenceTrainer: DPOConfig, OnlineTrainer: GRPOConfig}


@dataclass(frozen=True)
class Offset(RewardLoss):
    """Reads a column of its own."""

    columns = frozenset({"cost"})

    def __call__(self, scores: RankedScores) -> Tensor:
        return scores.chosen - scores.rejected - scores.columns["cost"]


def make(kind: Any, folder: Path, rows: Any, held_out: Any = None, **own: Any) -> Any:
    """A trainer of a model that is not there: rows are refused before anything is loaded."""
    args = KINDS[kind](output_dir=str(folder), use_cpu=True, bf16=False, report_to=[])
    asked = {"reward_funcs": len} if kind is OnlineTrainer else {}
    data = Dataset.from_list(rows) if isinstance(rows, list) else rows
    return kind("no-such-model", args=args, train_dataset=data, eval_dataset=held_out, **asked, **own)


def rows_with(column: str, value: Any) -> list[dict[str, Any]]:
    plain = {**ROW, column: ROW.get(column)}
    return [plain, plain, {**ROW, column: value}, plain]


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="^train_dataset has no rows$"):
        make(kind, tmp_path, Dataset.from_list([]))
    with pytest.raises(DataError, match="^eval_dataset 'b' has no rows$"):
        make(kind, tmp_path, [ROW], {"a": Dataset.from_list([ROW]), "b": Dataset.from_list([])})


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        (RewardTrainer, "rejected"),
        (PreferenceTrainer, "chosen"),
        (PreferenceTrainer, "prompt"),
        (OnlineTrainer, "prompt"),
    ],
)
def test_a_missing_text(kind: Any, column: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^train_dataset, row 2: the column '{column}' is None; every row needs one$"):
        make(kind, tmp_path, rows_with(column, None))


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("margin", nan, "is nan; it should be a finite number$"),
        ("margin", -inf, "is -inf; it should be a finite number$"),
        ("weight", -0.5, "is -0.5; it should be a finite number of at least 0$"),
        ("probability", 1.5, "is 1.5; it should be a finite number from 0 to 1$"),
        ("difficulty", nan, "is nan; it should be"),
    ],
)
def test_a_number_that_is_none(column: str, value: float, words: str, tmp_path: Path) -> None:
    own = {"loss": component("reward_loss", "bradley_terry"), "sampler": component("sampler", "curriculum")}
    with pytest.raises(DataError, match=f"^train_dataset, row 2: the column '{column}' {words}"):
        make(RewardTrainer, tmp_path, rows_with(column, value), **own)


def test_the_default_loss_reads_margins(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 2: the column 'margin' is nan"):
        make(RewardTrainer, tmp_path, rows_with("margin", nan))


def test_a_preference_loss_of_ours_reads_probabilities_and_margins(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 2: the column 'probability' is -0\.1; it should be a finite number from"):
        make(PreferenceTrainer, tmp_path, rows_with("probability", -0.1), loss=component("preference_loss", "dpo"))
    with pytest.raises(DataError, match="row 2: the column 'margin' is inf"):
        make(PreferenceTrainer, tmp_path, rows_with("margin", inf), loss=component("preference_loss", "dpo_margin"))


def test_a_column_that_a_loss_reads_is_in_every_row(tmp_path: Path) -> None:
    for value in (None, nan):
        with pytest.raises(DataError, match="the column 'cost' is .*; every row needs finite numbers"):
            make(RewardTrainer, tmp_path, [{**ROW, "cost": 1.0}, {**ROW, "cost": value}], loss=Offset())


def test_only_rows_that_are_left_count() -> None:
    rows = Dataset.from_list(rows_with("chosen", None)).select([0, 1, 3])
    assert Rows().checked({"train_dataset": rows})["train_dataset"] is rows


def test_a_stream_is_refused_at_its_row() -> None:
    stream = IterableDataset.from_generator(lambda: iter(rows_with("margin", nan)))
    found = iter(Rows(numbers=("margin",)).checked({"train_dataset": stream})["train_dataset"])
    assert [next(found)["chosen"], next(found)["chosen"]] == ["ant", "ant"]
    with pytest.raises(DataError, match="train_dataset, row 2: the column 'margin' is nan"):
        next(found)
    with pytest.raises(DataError, match="train_dataset has no rows"):
        Rows().checked({"train_dataset": IterableDataset.from_generator(lambda: iter(()))})
