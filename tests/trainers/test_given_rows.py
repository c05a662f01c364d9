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
from rlhf_plugins.trainers.online.engine_or_trl import read_by

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
    given = stream(*rows_with("margin", nan))
    found = iter(Rows(numbers=("margin",)).checked({"train_dataset": given})["train_dataset"])
    assert [next(found)["chosen"], next(found)["chosen"]] == ["ant", "ant"]
    with pytest.raises(DataError, match="train_dataset, row 2: the column 'margin' is nan"):
        next(found)
    with pytest.raises(DataError, match="train_dataset has no rows"):
        Rows().checked({"train_dataset": stream()})


def stream(*rows: dict[str, Any]) -> IterableDataset:
    return IterableDataset.from_generator(lambda: iter(rows))


def without(column: str, **more: Any) -> dict[str, Any]:
    return {name: value for name, value in {**ROW, **more}.items() if name != column}


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        (RewardTrainer, "chosen"),
        (RewardTrainer, "rejected"),
        (PreferenceTrainer, "chosen"),
        (PreferenceTrainer, "rejected"),
        (OnlineTrainer, "prompt"),
    ],
)
def test_a_missing_column(kind: Any, column: str, tmp_path: Path) -> None:
    row = without(column, **{f"{column}s": "x"})
    words = rf" has no column '{column}' \(did you mean {column}s\? known: {', '.join(sorted(row))}\)$"
    with pytest.raises(DataError, match="^train_dataset" + words):
        make(kind, tmp_path, [row])
    with pytest.raises(DataError, match="^eval_dataset" + words):
        make(kind, tmp_path, [ROW], Dataset.from_list([row]))
    with pytest.raises(DataError, match="^eval_dataset 'b'" + words):
        make(kind, tmp_path, [ROW], {"a": Dataset.from_list([ROW]), "b": Dataset.from_list([row])})
    with pytest.raises(DataError, match="^train_dataset, row 0" + words):
        make(kind, tmp_path, stream(row))


def test_a_column_that_a_later_row_of_a_stream_lacks() -> None:
    found = Rows(needs=(("chosen", "rejected"),)).checked({"train_dataset": stream(ROW, without("rejected"))})
    with pytest.raises(DataError, match=r"^train_dataset, row 1 has no column 'rejected' \(known: chosen, prompt\)$"):
        list(found["train_dataset"])


def test_a_missing_column_of_tokens(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^train_dataset has no column 'rejected_ids' .*known: chosen_ids, prompt_ids"):
        make(PreferenceTrainer, tmp_path, [{"prompt_ids": [1], "chosen_ids": [2]}])
    with pytest.raises(DataError, match=r"^train_dataset has no column 'chosen' \(known: question\)$"):
        make(RewardTrainer, tmp_path, [{"question": "x"}])


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("ant", "gas"),
        (" ant", " gas"),  # TRL gives a space to the responses
        ("gas ", "ant"),  # TRL's prompt is all of chosen but its end
        ("", "gas"),
        ([{"role": "assistant", "content": "ant"}], [{"role": "assistant", "content": "gas"}]),
    ],
)
def test_no_implicit_prompt(chosen: Any, rejected: Any, tmp_path: Path) -> None:
    pair = {"chosen": chosen, "rejected": rejected, "promt": "how"}
    words = r" has no column 'prompt' \(did you mean promt\? known: chosen, promt, rejected\), and in every row chosen"
    with pytest.raises(DataError, match=f"^train_dataset{words} and rejected share no beginning"):
        make(PreferenceTrainer, tmp_path, [pair, pair])
    with pytest.raises(DataError, match=f"^eval_dataset 'b'{words}"):
        make(PreferenceTrainer, tmp_path, [ROW], {"b": Dataset.from_list([pair])})


def test_some_pairs_without_an_implicit_prompt_are_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare, whole = without("prompt"), {"chosen": "how ant", "rejected": "how gas"}
    with pytest.raises(OSError, match="connect to"):
        make(PreferenceTrainer, tmp_path, [whole, bare, bare], {"b": stream(bare, whole), "c": stream(whole, bare)})
    noted = [one.getMessage() for one in caplog.records if "share no beginning" in one.getMessage()]
    assert [one.split(": ")[0] for one in noted] == [
        "train_dataset, 2 of 3 rows, the first of which is row 1",
        "eval_dataset 'b', row 0",
    ]


IDS = {"chosen_ids": [3, 4], "rejected_ids": [3, 5]}


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (RewardTrainer, without("prompt")),
        (RewardTrainer, IDS),
        (RewardTrainer, {"chosen_input_ids": [3, 4], "rejected_input_ids": [3, 5]}),
        (PreferenceTrainer, {"prompt_ids": [1, 2], **IDS}),
        (PreferenceTrainer, {"chosen": "how ant", "rejected": "how gas"}),
        (PreferenceTrainer, {"chosen": "你好", "rejected": "你们"}),
        (PreferenceTrainer, {"prompt": "", "chosen": "ant", "rejected": "gas"}),
        (OnlineTrainer, {"prompt": "how ", "answer": 3}),
    ],
)
def test_rows_that_trl_takes_are_taken(kind: Any, row: dict[str, Any], tmp_path: Path) -> None:
    for rows in ([row], stream(row)):
        with pytest.raises(OSError, match="connect to"):  # the rows are accepted, and the model is loaded
            make(kind, tmp_path, rows, {"held_out": Dataset.from_list([row])})


def test_columns_that_a_transform_makes(tmp_path: Path) -> None:
    made = Dataset.from_list([{"number": 1}]).with_transform(lambda rows: {n: [v] for n, v in ROW.items()})
    for kind in KINDS:
        with pytest.raises(OSError, match="connect to"):
            make(kind, tmp_path, made)


def test_an_environment_of_trl_gives_prompts_itself(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column 'prompt'"):
        make(OnlineTrainer, tmp_path, [{"environment": "a"}])
    assert read_by({"environment_factory": dict}).checked({"train_dataset": Dataset.from_list([{"environment": "a"}])})
