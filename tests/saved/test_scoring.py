"""Rows are scored as the model scores them, and an interrupted file becomes the uninterrupted one byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from pyarrow import parquet

from rlhf_plugins import load_reward_function
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rows import Data, Group, Samples
from rlhf_plugins.contract.run import Base
from rlhf_plugins.engine.prompt_form import note_prompts
from rlhf_plugins.engine.weights.loading import load_trunk
from rlhf_plugins.errors import DataError, RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models import opening
from rlhf_plugins.reward_models.ensemble import describe
from rlhf_plugins.reward_models.handle import RewardHandle
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.saved import scoring
from rlhf_plugins.saved.scoring import score_file
from rlhf_plugins.testing import tiny_base, tiny_encoder

ROWS = [{"id": i, "prompt": "how is ", "response": "ant " * (i % 3) + "gas"} for i in range(7)]


def saved(folder: Path, base: Base, head: Any = "scalar", seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = RewardModel(load_trunk(base), component("pooling", "mean"), component("reward_head", head))
    words = head if isinstance(head, dict) else {"use": head}
    model.save(folder, {"base": {"path": base.path}, "pooling": {"use": "mean"}, "head": words})
    return folder


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def model(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model"), base)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes rows into the working folder, where two make a chunk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scoring, "CHUNK", 2)

    def write(rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return name

    return write


def test_a_row_keeps_its_fields_and_gets_its_reward(model: Path, written: Callable[..., str]) -> None:
    done = score_file(model, written(ROWS))
    expected = load_reward_function(model)([row["prompt"] for row in ROWS], [row["response"] for row in ROWS])
    assert done == scoring.ScoredRows(Path("rows.jsonl.scored.jsonl"), 7, 0)
    found = rows_of(done.out)
    assert [list(row) for row in found] == [["id", "prompt", "response", "reward"]] * 7
    assert [row["reward"] for row in found] == pytest.approx(expected, abs=1e-6)


ASKED = [{"role": "user", "content": "how "}]


@pytest.mark.parametrize(
    ("trained", "prompt", "said"),
    [
        (ASKED, "how ", ["the prompts to score are text, and the reward model was trained on messages"]),
        ("how ", ASKED, ["the prompts to score are messages, and the reward model was trained on text"]),
        (ASKED, ASKED, []),
        ("how ", "how ", []),
    ],
)
def test_prompts_in_another_form_than_in_training_are_said_once(
    trained: Any,
    prompt: Any,
    said: list[str],
    tmp_path: Path,
    written: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = tiny_base(tmp_path / "base")
    Path(base.path, "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }} {% endfor %}")
    model, response = saved(tmp_path / "model", base), [{"role": "assistant", "content": "ant"}]
    note_prompts(model, Data((Group(trained),)), Path(base.path))
    for name in ("a.jsonl", "b.jsonl"):
        row = {"prompt": prompt, "response": "ant" if isinstance(prompt, str) else response}
        score_file(model, written([row] * 3, name))
    load_reward_function(model)([prompt], ["ant"])
    assert [each.getMessage() for each in caplog.records] == [f"{model}: {one}" for one in said]


def test_lists_and_pairs_get_rewards_in_their_order(model: Path, written: Callable[..., str]) -> None:
    several = {"prompt": "why ", "responses": ["ant", {"text": "gas ice"}, "elk"]}
    pairs = [
        {"prompt": "why ", "chosen": "gas ice", "rejected": "ant"},
        {"chosen": "why gas ice", "rejected": "why ant"},
    ]
    rewards = load_reward_function(model)(["why "] * 3, ["ant", "gas ice", "elk"])
    first, second, third = (row["rewards"] for row in rows_of(score_file(model, written([several, *pairs])).out))
    assert first == pytest.approx(rewards, abs=1e-6)
    for pair in (second, third):
        assert pair == pytest.approx([rewards[1], rewards[0]], abs=1e-6)


def test_all_rows_that_are_too_long_are_named(model: Path, written: Callable[..., str]) -> None:
    rows = written([{"prompt": "how ", "response": "ant " * count} for count in (300, 2, 400)])
    with pytest.raises(DataError, match=r"(?s)2 rows cannot be read.*jsonl:1: has 302 tokens.*jsonl:3: has 402 tokens"):
        score_file(model, rows)


def test_csv_and_parquet_are_scored_alike(model: Path, written: Callable[..., str]) -> None:
    columns = {"prompt": ["how ", "why "], "response": ["ant", "gas ice"]}
    Path("rows.csv").write_text("prompt,response\nhow ,ant\nwhy ,gas ice\n")
    parquet.write_table(pyarrow.table({**columns, "rated": [float("nan"), 1.0]}), "rows.parquet")
    of_csv, of_parquet = (rows_of(score_file(model, name).out) for name in ("rows.csv", "rows.parquet"))
    assert [row["rated"] for row in of_parquet] == [None, 1.0]  # JSON has no NaN
    assert [row["reward"] for row in of_csv] == [row["reward"] for row in of_parquet]


def test_what_else_a_model_says_is_written(base: Base, tmp_path: Path, written: Callable[..., str]) -> None:
    head = {"use": "multi", "dimensions": ["helpful", "brief"], "weights": [0.25, 0.5]}
    (row,) = rows_of(score_file(saved(tmp_path / "multi", base, head), written(ROWS[:1])).out)
    assert row["reward"] == pytest.approx(
        0.25 * row["dimensions"]["helpful"] + 0.5 * row["dimensions"]["brief"], abs=1e-6
    )
    (row,) = rows_of(score_file(saved(tmp_path / "gaussian", base, "gaussian"), written(ROWS[:1], "g.jsonl")).out)
    assert row["variance"] == pytest.approx(1.0)  # as the head starts


def ensemble(folder: Path, base: Base, aggregation: str = "mean", early_exit: bool = False) -> Path:
    for member in range(3):
        saved(folder / str(member), base, seed=member)
    names = ["0", "1"] if aggregation == "mean" and not early_exit else ["0", "1", "2"]
    describe(folder, names, {"use": aggregation}, accuracy=[1.0] * len(names), early_exit=early_exit)
    return folder


@pytest.mark.parametrize(("aggregation", "early_exit"), [("vote", False), ("mean", True)])
def test_a_row_is_scored_as_it_is_alone_whatever_rows_of_its_prompt_are_beside_it(
    aggregation: str, early_exit: bool, base: Base, tmp_path: Path, written: Callable[..., str]
) -> None:
    """In a chunk of two rows, of which the votes and what ends the asking were those of all four responses."""
    folder = ensemble(tmp_path / "ensemble", base, aggregation, early_exit)
    rows = [{"prompt": "why ", "responses": each} for each in (["ant", "gas ice"], ["elk elk", "ox"])]
    both = rows_of(score_file(folder, written(rows)).out)
    alone = [rows_of(score_file(folder, written([row], f"{i}.jsonl")).out)[0] for i, row in enumerate(rows)]
    for found, expected in zip(both, alone, strict=True):
        assert found["rewards"] == pytest.approx(expected["rewards"], abs=1e-5)
        assert [row.count(None) for row in found["members"]] == [row.count(None) for row in expected["members"]]


def test_what_depends_on_a_whole_row_is_neither_given_for_one_response_nor_kept_for_other_rows(
    base: Base, tmp_path: Path, written: Callable[..., str]
) -> None:
    folder, pair = ensemble(tmp_path / "ensemble", base, "vote"), {"prompt": "why ", "responses": ["ant", "gas"]}
    with pytest.raises(RunError, match=r"rows.jsonl:2: has one response, as have 1 of 2 rows, and aggregation vote"):
        score_file(folder, written([pair, ROWS[0]]))
    with pytest.raises(RunError, match="cache: a reward of this ensemble depends on the other responses of its row"):
        score_file(folder, written([pair]), cache=Path("cache"))


def test_an_ensemble_tells_its_members_and_their_variance(
    base: Base, tmp_path: Path, written: Callable[..., str]
) -> None:
    folder, listed = ensemble(tmp_path / "ensemble", base), {"prompt": "why ", "responses": ["ant", "gas ice"]}
    (row,) = rows_of(score_file(folder, written([listed])).out)
    for i, response in enumerate(listed["responses"]):
        a, b = row["members"][i]
        assert [a] == pytest.approx(load_reward_function(folder / "0")(["why "], [response]), abs=1e-6)
        assert row["rewards"][i] == pytest.approx((a + b) / 2, abs=1e-6)
        assert row["epistemic"][i] == pytest.approx((a - b) ** 2 / 4, abs=1e-6)


def test_a_column_that_an_ensemble_reads_reaches_it_from_files_and_from_trl(
    base: Base, tmp_path: Path, written: Callable[..., str]
) -> None:
    folder, experts = ensemble(tmp_path / "ensemble", base), {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    aggregation = {"use": "expert", "alpha": 30.0}
    describe(folder, ["0", "1"], aggregation, accuracy=[0.5, 0.5], early_exit=False, accuracy_by_topic=experts)
    found = rows_of(score_file(folder, written([{**ROWS[0], "topic": topic} for topic in "ab"])).out)
    rewards = [row["reward"] for row in found]
    assert rewards == pytest.approx([row["members"][place] for place, row in enumerate(found)], abs=1e-5)
    both = load_reward_function(folder)([ROWS[0]["prompt"]] * 2, [ROWS[0]["response"]] * 2, topic=["a", "b"])
    assert both == pytest.approx(rewards, abs=1e-6)


def test_members_that_were_not_asked_are_null(
    model: Path, written: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Prediction(torch.tensor([1.0]), members=torch.tensor([[0.0, 2.0, float("nan")]]))
    monkeypatch.setattr(opening, "open_reward", lambda *_: RewardHandle(lambda samples: said))
    (row,) = rows_of(score_file(model, written(ROWS[:1])).out)
    assert (row["members"], row["epistemic"]) == ([0.0, 2.0, None], 1.0)


def interrupting(after: int) -> Callable[..., Any]:
    """`open_reward` whose judge is interrupted at a later call."""
    opened, calls = opening.open_reward, iter(range(100))

    def open_reward(*args: Any) -> Any:
        judge = opened(*args)

        def interrupted(samples: Samples) -> Prediction:
            if next(calls) == after:
                raise KeyboardInterrupt
            return judge(samples)

        return RewardHandle(interrupted)

    return open_reward


@pytest.mark.parametrize(
    "torn", [b"", b'{"id": 4, "pro', b'{"id": 4, "prompt": "how is ", "response": "ant gas", "reward": 1.0}\n']
)
def test_an_interrupted_file_becomes_the_uninterrupted_one(
    model: Path, written: Callable[..., str], monkeypatch: pytest.MonkeyPatch, torn: bytes
) -> None:
    whole = score_file(model, written(ROWS), Path("whole.jsonl")).out.read_bytes()
    part, opened = Path("part.jsonl"), opening.open_reward
    monkeypatch.setattr(opening, "open_reward", interrupting(after=2))
    with pytest.raises(KeyboardInterrupt, match="part.jsonl: 4 of 7 rows are scored"):
        score_file(model, "rows.jsonl", part)
    monkeypatch.setattr(opening, "open_reward", opened)
    assert part.read_bytes() == b"".join(whole.splitlines(keepends=True)[:4])
    part.write_bytes(part.read_bytes() + torn)
    assert score_file(model, "rows.jsonl", part) == scoring.ScoredRows(part, 7, 4)
    assert part.read_bytes() == whole


def test_a_finished_file_is_left_without_opening_the_model(
    model: Path, written: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = score_file(model, written(ROWS))
    monkeypatch.setattr(opening, "open_reward", None)
    assert score_file(model, "rows.jsonl") == replace(done, before=7)


def of_another_model(model: Path, base: Base) -> Path:
    return saved(Path("other"), base, seed=1)


def with_another_row(model: Path, base: Base) -> Path:
    Path("rows.jsonl").write_text(json.dumps({**ROWS[0], "response": "elk"}) + "\n")
    return model


def without_its_note(model: Path, base: Base) -> Path:
    Path("rows.jsonl.scored.jsonl.note.json").unlink()
    return model


def with_a_line_edited(model: Path, base: Base) -> Path:
    out = Path("rows.jsonl.scored.jsonl")
    out.write_text(out.read_text().replace('"id": 3', '"id": 4'))
    return model


CHANGES: list[tuple[Callable[[Path, Base], Path], str]] = [
    (of_another_model, "written of another model;"),
    (with_another_row, "written of another set of rows;"),
    (without_its_note, "no rows.jsonl.scored.jsonl.note.json records what it belongs to"),
    (with_a_line_edited, "line 4 does not belong to the row of that place"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_a_file_that_belongs_to_something_else_is_refused(
    base: Base, model: Path, written: Callable[..., str], change: Callable[[Path, Base], Path], message: str
) -> None:
    out = score_file(model, written(ROWS)).out
    changed = change(model, base)
    before = out.read_bytes()
    with pytest.raises(RunError, match=f"{message}.*--overwrite"):
        score_file(changed, "rows.jsonl")
    assert out.read_bytes() == before
    assert score_file(changed, "rows.jsonl", overwrite=True).before == 0


def test_a_cache_answers_what_was_scored_before(
    model: Path, written: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score_file(model, written(ROWS), cache=Path("cache")).out.read_bytes()
    monkeypatch.setattr(opening, "open_reward", interrupting(after=0))
    assert score_file(model, "rows.jsonl", Path("again.jsonl"), cache=Path("cache")).out.read_bytes() == first
    with pytest.raises(RunError, match="written of another kind of scores"):
        score_file(model, "rows.jsonl", Path("again.jsonl"))


def test_a_format_reads_rows_of_its_own(model: Path, written: Callable[..., str]) -> None:
    source = written([{"prompt": "why ", "response_a": "ant", "response_b": "gas ice", "label": "b"}])
    (row,) = rows_of(
        score_file(model, source, read=component("data_format", {"use": "comparisons", "source": source})).out
    )
    assert (row["prompt"], row["responses"]) == ("why ", ["ant", "gas ice"])
    assert row["rewards"] == pytest.approx(load_reward_function(model)(["why "] * 2, ["ant", "gas ice"]), abs=1e-6)


GOOD = {"prompt": "why ", "response": "ant"}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "why "}, "rows.jsonl:2: has neither 'response' nor 'responses' nor 'chosen'"),
    ({"response": "ant"}, "rows.jsonl:2: lacks the column 'prompt'"),
    ({**GOOD, "chosen": "ant"}, "rows.jsonl:2: has 'response' and 'chosen', and only one can be scored"),
    ({**GOOD, "reward": 1}, "rows.jsonl:2: has a column 'reward' already"),
    ({**GOOD, "response": 3}, "rows.jsonl:2: response must be text or a list of messages, found int"),
    ({**GOOD, "prompt": ""}, "rows.jsonl:2: its prompt has no token"),
    ({**GOOD, "response": "ant " * 300}, "rows.jsonl:2: has 302 tokens, and the model takes 256"),
    ({"prompt": "why ", "responses": []}, "rows.jsonl:2: responses must be a list of responses"),
    ({"chosen": "ant", "rejected": "ant"}, "rows.jsonl:2: chosen equals rejected, so the prompt is unknown"),
    ({**GOOD, "note": "\ud83d"}, "rows.jsonl:2: cannot be written as JSON"),
    ({"prompt": [{"role": "user", "content": "why"}], "response": [{"role": "assistant", "content": "ant"}]},
     "rows.jsonl:2: its messages cannot be tokenized: .*chat_template"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_bad_row_is_named_before_anything_is_written(
    model: Path, written: Callable[..., str], row: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        score_file(model, written([GOOD, row]))
    assert [path.name for path in Path().iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_names_its_row(
    model: Path, written: Callable[..., str], monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    def judge(samples: Samples) -> Prediction:
        return Prediction(torch.tensor([bad if "ant" in response else 0.0 for response in samples.responses]))

    monkeypatch.setattr(opening, "open_reward", lambda *_: RewardHandle(judge))
    with pytest.raises(RunError, match="^rows.jsonl:4: its reward"):
        score_file(model, written([ROWS[0]] * 3 + [ROWS[1]]))
    assert len(rows_of(Path("rows.jsonl.scored.jsonl"))) == 2


def test_a_file_is_not_scored_into_itself(model: Path, written: Callable[..., str]) -> None:
    source = written(ROWS)
    with pytest.raises(RunError, match="is the file to score"):
        score_file(model, source, Path("rows.jsonl"), overwrite=True)
    assert len(rows_of(Path(source))) == 7


def test_an_encoder_scores_pairs_of_texts(tmp_path: Path, written: Callable[..., str]) -> None:
    folder = saved(tmp_path / "bert", tiny_encoder(tmp_path / "base"))
    found = [row["reward"] for row in rows_of(score_file(folder, written(ROWS)).out)]
    assert found == pytest.approx(
        load_reward_function(folder)(["how is "] * 7, [r["response"] for r in ROWS]), abs=1e-6
    )
