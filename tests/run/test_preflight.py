"""`rlhf check` refuses what a run refuses of rows and base, in its words, and says what it did not look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import run_recipe
from rlhf_plugins.data import partial_reads
from rlhf_plugins.errors import RecipeError, RlhfError
from rlhf_plugins.recipe.check import bundled, load_recipe
from rlhf_plugins.run.preflight import Preflight
from rlhf_plugins.testing import tiny_base

N = 12
ASKED = [f"who is {'the ' * place}ant " for place in range(N)]
PAIRS = [{"prompt": asked, "chosen": "bee", "rejected": "cat"} for asked in ASKED]
SAID = [{"role": "user", "content": "how"}], [{"role": "assistant", "content": "ant"}]
RATED = [
    {"prompt": asked, "response": word, "score": s}
    for asked in ASKED
    for word, s in (("bee", 3), ("cat", 1), ("dog", 1))
]
ONLINE = {"per_device_train_batch_size": 2, "num_generations": 2, "max_completion_length": 4}

Rows = list[dict[str, Any]]
# rows, their format, options of the recipe and of the data, the stage, where the fault is, and what it says
KINDS: dict[str, tuple[Rows, str, dict[str, Any], dict[str, Any], dict[str, Any], str, str]] = {
    "answers for pairs": (
        [{"prompt": asked, "completion": "bee"} for asked in ASKED], "supervised", {}, {}, {"stage": "preference"},
        "stages.0", "no pair of responses is strictly ordered",
    ),
    "answers for a reward model": (
        [{"prompt": asked, "completion": "bee"} for asked in ASKED], "supervised", {}, {}, {"stage": "reward_model"},
        "stages.0", "no group is left to learn from (10 x nothing left to compare)",
    ),
    "answers for a log": (
        PAIRS, "preference", {}, {}, {"stage": "offline"},
        "stages.0", "stage offline needs the column 'ratings'",
    ),
    "no chat template": (
        [{"prompt": SAID[0], "chosen": SAID[1], "rejected": [{"role": "assistant", "content": f"{asked}"}]}
         for asked in ASKED], "preference", {}, {}, {"stage": "preference"},
        "stages.0", "messages cannot be tokenized: the tokenizer has no chat template; give a `chat_template`",
    ),
    "ties": (
        RATED, "ratings", {}, {}, {"stage": "reward_model", "loss": "plackett_luce"},
        "stages.0", "two responses of a ranking share a place, which plackett_luce refuses: set `ties: split`",
    ),
    "no topic": (
        PAIRS, "preference", {}, {"hold_out": "topic"}, {"stage": "preference"},
        "data", "rows.jsonl:1: has no topic, and topics are to be held out (`hold_out`)",
    ),
    "text with a system turn": (
        PAIRS, "preference", {"system": "Be kind."}, {}, {"stage": "preference"},
        "system", "the recipe gives system, which only conversations have, and the rows are text",
    ),
    "a recipe too short": (
        PAIRS, "preference", {"max_length": 2}, {}, {"stage": "preference"},
        "stages.0", "no row is left to learn from (10 x response longer than max_length)",
    ),
    "a trainer too short": (
        PAIRS, "preference", {}, {}, {"stage": "preference", "trainer": {"max_length": 1}},
        "stages.0", "every prompt fills max_length (1): write a larger one",
    ),
    "nothing to imitate": (
        PAIRS, "preference", {}, {}, {"stage": "sft", "trainer": {"max_length": 1}},
        "stages.0", "every prompt takes all 1 tokens of max_length",
    ),
    "beyond the positions": (
        PAIRS, "preference", {}, {},
        {"stage": "online", "reward": "length", "trainer": {**ONLINE, "max_completion_length": 500}},
        "stages.0", "10 x prompt that leaves no room for 500 tokens of the 256 that the model takes; write a smaller "
        "trainer.max_completion_length: the shortest of them leaves 253, the longest 242",
    ),
    "an evaluation beyond the positions": (
        PAIRS, "preference", {}, {}, {"stage": "evaluate", "reward": "length", "max_new_tokens": 500},
        "stages.0", "2 x prompt that leaves no room for 500 tokens of the 256 that the model takes; write a smaller "
        "max_new_tokens: the shortest of them leaves ",
    ),
    "vLLM": (
        PAIRS, "preference", {}, {}, {"stage": "online", "reward": "length", "trainer": {**ONLINE, "use_vllm": True}},
        "stages.0", "trainer: use_vllm needs the package vllm, which is not installed: `pip install vllm`",
    ),
    "Liger's kernels": (
        PAIRS, "preference", {}, {}, {"stage": "sft", "trainer": {"use_liger_kernel": True}},
        "stages.0", "use_liger_kernel needs the package liger-kernel, which is not installed: `pip install 'rlhf-",
    ),
    "layers under an adapter": (
        PAIRS, "preference", {}, {}, {"stage": "reward_model", "train_layers": 1},
        "stages.0", "train_layers trains the base's own weights; write adapter: none",
    ),
    "frozen features of a pooling with weights": (
        PAIRS, "preference", {}, {}, {"stage": "reward_model", "train_layers": 0, "pooling": "attention"},
        "stages.0", "pooling attention has weights to train, so its features cannot be computed once",
    ),
    "no answers": (
        PAIRS, "preference", {}, {}, {"stage": "online", "reward": "exact_match", "trainer": ONLINE},
        "stages.0.reward", "reward: the prompts have no column 'answer' (known: none); name it in `column`",
    ),
    "a column that a function takes": (
        [{"prompt": asked, "answer": "ant"} for asked in ASKED], "prompts", {}, {},
        {"stage": "online", "reward": {"use": "python", "path": "r.py:score"}, "trainer": ONLINE},
        "stages.0.reward", "reward: the prompts have no column 'answers' (did you mean answer? known: answer); ",
    ),
    "few prompts": (
        PAIRS, "preference", {}, {},
        {"stage": "online", "reward": "length", "trainer": {**ONLINE, "per_device_train_batch_size": 40}},
        "stages.0", "there are 10 prompts, but a rollout takes 20",
    ),
    "a rating that no row has": (
        RATED, "ratings", {}, {}, {"stage": "reward_model", "loss": {"use": "regression", "dimension": "tone"}},
        "stages.0", "the data hold no ratings of 'tone' (known: score)",
    ),
    "another head": (
        RATED, "ratings", {}, {}, {"stage": "reward_ensemble", "members": 2, "loss": "gaussian_nll"},
        "stages.0", "gaussian_nll needs a head that predicts it, such as gaussian",
    ),
    "folds": (
        PAIRS, "preference", {}, {}, {"stage": "label_check", "folds": 11},
        "stages.0", "folds: 11, but there are 10 prompts; write fewer",
    ),
    "no evaluation": (
        PAIRS, "preference", {}, {"test_source": "rows.jsonl"}, {"stage": "preference"},
        "data", "every prompt is in the test source too, so none is left to train on",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlhf_plugins.trainers.arguments.is_liger_kernel_available", lambda: False)
    monkeypatch.setattr("trl.generation.vllm_generation.is_vllm_available", lambda *_: False)
    tiny_base(tmp_path / "base")
    Path("r.py").write_text("def score(completions, answers, **_):\n    return [0.0] * len(completions)\n")


def put(rows: Rows, name: str = "rows.jsonl") -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe(
    rows: Rows, form: str, own: dict[str, Any], of_data: dict[str, Any], *stages: dict[str, Any]
) -> dict[str, Any]:
    put(rows)
    trained = [{**stage, "trainer": {"max_steps": 1, **stage.get("trainer", {})}} for stage in stages]
    whole = [one if one["stage"] != "evaluate" else stage for one, stage in zip(trained, stages, strict=True)]
    data = {"format": form, "source": "rows.jsonl", **of_data}
    return {"base": "base", "data": data, "stages": whole, "output_dir": "run", **own}


def faults(written: dict[str, Any], preflight: Preflight | None = None) -> list[tuple[str, str]]:
    found = list[tuple[str, str]]()
    try:
        load_recipe(written, preflight=preflight or Preflight())
    except RecipeError as error:
        found = [(fault.path, fault.message) for fault in error.faults]
    assert not Path(written["output_dir"]).exists()  # a check writes nothing
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_check_refuses_what_a_run_refuses(kind: str) -> None:
    rows, form, own, of_data, stage, place, said = KINDS[kind]
    written = recipe(rows, form, own, of_data, stage)
    ((path, message),) = faults(written)
    assert path.startswith(place)
    assert said in message
    with pytest.raises(RlhfError) as refused:
        run_recipe(written, say=lambda _: None)
    assert message in str(refused.value)


GOOD: dict[str, tuple[Rows, str, dict[str, Any]]] = {
    "dpo": (PAIRS, "preference", {"stage": "preference"}),
    "kto of answers": (
        [{"prompt": asked, "completion": asked, "label": bool(i % 2)} for i, asked in enumerate(ASKED)],
        "supervised", {"stage": "preference", "loss": "kto"},
    ),
    "split ties": (RATED, "ratings", {"stage": "reward_model", "loss": {"use": "plackett_luce", "ties": "split"}}),
    "answers": (
        [{"prompt": asked, "answer": "ant"} for asked in ASKED], "prompts",
        {"stage": "online", "reward": "exact_match", "trainer": ONLINE},
    ),
    "a log": (RATED, "ratings", {"stage": "offline"}),
    "sft": (PAIRS, "preference", {"stage": "sft"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", GOOD)
def test_what_runs_has_no_fault(kind: str) -> None:
    rows, form, stage = GOOD[kind]
    written = recipe(rows, form, {}, {}, stage)
    assert not faults(written, preflight := Preflight())
    assert not list(preflight.sentences())
    assert run_recipe(written, say=lambda _: None).folder == Path("run")


def test_rows_that_are_left_out_refuse_nothing() -> None:
    long = {"prompt": ASKED[0], "response": "the " * 30, "score": 3}
    tied = [{**long, "response": "why " * 30}, long]
    rows = [*RATED[::3], *RATED[1::3], *tied]
    stage = {"stage": "reward_model", "loss": "plackett_luce", "trainer": {"max_length": 24}}
    assert not faults(recipe(rows, "ratings", {}, {"test_fraction": 0.01}, stage))
    assert faults(recipe(rows, "ratings", {}, {"test_fraction": 0.01}, {**stage, "trainer": {"max_length": 64}}))


def test_a_fault_of_the_first_rows_alone_is_none() -> None:
    rows = [{"prompt": f"{asked}{'why ' * 20}", "chosen": "bee", "rejected": "cat"} for asked in ASKED * 10]
    long = [{**row, "prompt": f"{row['prompt']}{'the ' * place}"} for place, row in enumerate(rows[:90])]
    assert not faults(recipe([*long, *PAIRS], "preference", {"max_length": 20}, {}, {"stage": "preference"}))
    assert faults(recipe(long, "preference", {"max_length": 20}, {}, {"stage": "preference"}))


LONG = [{**row, "prompt": f"{row['prompt']}{'why ' * 20}"} for row in PAIRS]
PARTLY = "looked at in part: the first 4 rows of {}/rows.jsonl (0 MiB)"


@pytest.mark.parametrize(
    ("rows", "refused", "said"), [([*PAIRS, *LONG], 0, [PARTLY]), ([*LONG, *PAIRS], 0, []), (LONG, 1, [])]
)
def test_what_the_first_rows_of_a_large_file_show_is_looked_for_in_all(
    rows: Rows, refused: int, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial_reads, "MAX_BYTES", 0)
    monkeypatch.setattr(partial_reads, "FIRST", 4)
    preflight = Preflight()
    found = faults(recipe(rows, "preference", {"max_length": 20}, {}, {"stage": "preference"}), preflight)
    assert len(found) == refused
    assert list(preflight.sentences()) == [each.format(Path.cwd()) for each in said]


def test_a_file_that_is_too_large_is_named_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_reads, "MAX_BYTES", 0)
    monkeypatch.setattr(partial_reads, "LARGE", 0)
    written = recipe(LONG, "preference", {"max_length": 20}, {}, {"stage": "preference"})
    assert not faults(written, preflight := Preflight())
    assert list(preflight.sentences()) == [f"not looked at: {Path.cwd()}/rows.jsonl (0 MiB)"]


def test_a_file_that_is_not_read_takes_no_room_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    small = recipe(PAIRS, "preference", {"max_length": 2}, {}, {"stage": "preference"})
    monkeypatch.setattr(partial_reads, "LARGE", Path("rows.jsonl").stat().st_size)
    put([*PAIRS, *PAIRS], "large.jsonl")
    large = {"stage": "preference", "name": "own", "data": {"format": "preference", "source": "large.jsonl"}}
    written = {**small, "stages": [large, *small["stages"]], "data": {**small["data"]}}
    swapped = {**written, "data": large["data"], "stages": [{**large, "data": small["data"]}]}
    for each, place in ((written, "stages.1"), (swapped, "stages.0")):
        ((path, message),) = faults(each)
        assert (path, "no row is left to learn from" in message) == (place, True)


def test_what_is_on_the_hub_is_named_and_left() -> None:
    written = recipe(PAIRS, "preference", {"base": "owner/model"}, {"source": "owner/rows"}, {"stage": "preference"})
    assert not faults(written, preflight := Preflight())
    assert list(preflight.sentences()) == [
        "not looked at: data set owner/rows, which is on the hub; base owner/model, which is on the hub"
    ]
    assert faults(
        {**written, "stages": [{"stage": "online", "reward": "length", "trainer": {**ONLINE, "use_vllm": True}}]}
    )


def test_code_of_the_base_is_not_run() -> None:
    Path("base/tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["code.Own", null]}}')
    written = recipe(PAIRS, "preference", {"trust_remote_code": True}, {}, {"stage": "preference"})
    assert not faults(written, preflight := Preflight())
    (said,) = preflight.sentences()
    assert said.endswith("base, which code of its own reads (`trust_remote_code`)")


@pytest.mark.parametrize(("rows", "said"), [(PAIRS, ""), (LONG, "has no topic")])
def test_rows_that_a_step_changes_are_not_looked_at_but_their_file_is(rows: Rows, said: str) -> None:
    source = {"format": "preference", "source": "rows.jsonl", **({"hold_out": "topic"} if said else {})}
    written = recipe(rows, "preference", {"max_length": 2}, {}, {"stage": "preference"})
    steps = {"format": "prepared", "rows": source, "steps": ["near_duplicates"]}
    found = faults({**written, "data": steps}, preflight := Preflight())
    assert list(preflight.sentences()) == ([] if said else ["not looked at: rows of the format prepared"])
    assert [(path, said in message) for path, message in found] == ([("data.rows", True)] if said else [])


def test_each_member_of_a_sweep_is_looked_at() -> None:
    written = recipe(PAIRS, "preference", {"sweep": {"max_length": [64, 2]}}, {}, {"stage": "preference"})
    ((path, message),) = faults(written)
    assert path == "stages.0"
    assert "10 x response longer than max_length" in message


def test_the_rows_of_a_stage_are_its_own() -> None:
    put([{"prompt": asked, "completion": "bee"} for asked in ASKED], "own.jsonl")
    own = {"stage": "preference", "name": "own", "data": {"format": "supervised", "source": "own.jsonl"}}
    written = recipe(PAIRS, "preference", {}, {}, {"stage": "sft"}, own)
    ((path, message),) = faults(written)
    assert (path, message) == ("stages.1", "no pair of responses is strictly ordered: there is nothing to learn from")


HANDED_ON = [
    {"stage": "named_reward", "reward": "exact_match"},
    {"stage": "online", "reward": "model", "advantage": "rloo", "data": {"format": "prompts", "source": "q.jsonl"}},
]


def test_a_stage_that_only_hands_a_reward_on_needs_none_of_its_columns() -> None:
    put([{"prompt": f"{asked}{asked}", "answer": "ant"} for asked in ASKED], "q.jsonl")
    stages = [HANDED_ON[0], {**HANDED_ON[1], "trainer": {**ONLINE, "max_steps": 1}}]
    written = {**recipe(PAIRS, "preference", {}, {}), "stages": stages}
    assert not faults(written, preflight := Preflight())
    assert not list(preflight.sentences())
    assert run_recipe(written, say=lambda _: None).folder == Path("run")


GUEST = """
from dataclasses import dataclass

from torch import nn

from rlhf_plugins import RewardHead, hookimpl


class Learning(nn.Linear):
    def forward(self, features):
        if not self.training:
            raise RuntimeError("no training here")
        return super().forward(features).flatten()


@dataclass(frozen=True)
class Learned(RewardHead):
    def build(self, width):
        return Learning(width, 1)


@hookimpl
def register_reward_head():
    return {"learned": Learned}
"""


def test_what_fails_in_a_rehearsal_alone_is_no_fault() -> None:
    Path("guest.py").write_text(GUEST)
    stage = {"stage": "reward_model", "head": "learned"}
    written = recipe(PAIRS, "preference", {"plugins": ["guest.py"]}, {}, stage)
    assert not faults(written, preflight := Preflight())
    (said,) = preflight.sentences()
    assert said.startswith("not looked at: what stage reward_model refuses, since that failed (ComponentError: ")
    assert "failed: RuntimeError: no training here (" in said
    assert run_recipe(written, say=lambda _: None).folder == Path("run")


@pytest.mark.parametrize("name", bundled())
def test_a_bundled_recipe_has_no_fault(name: str) -> None:
    put([{**row, "topic": f"{place % 3}"} for place, row in enumerate(PAIRS)], "preferences.jsonl")  # for two of them
    load_recipe(name, preflight=Preflight())
