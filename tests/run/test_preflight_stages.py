"""`rlhf check` refuses what a run refuses of batches, optimizers, tasks, the stages of `auto` and a guest's loss."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rlhf_plugins import Base, Kept, load_policy, open_run, run_recipe
from rlhf_plugins.errors import RecipeError, RlhfError, RunError
from rlhf_plugins.recipe.check import load_recipe
from rlhf_plugins.recipe.course import courses
from rlhf_plugins.run.preflight import Preflight
from rlhf_plugins.saved.policy_export import export_policy
from rlhf_plugins.saved.run_reference import made
from rlhf_plugins.testing import tiny_base, tiny_encoder

ASKED = [f"who is {'the ' * place}ant " for place in range(12)]
PAIRS = [{"prompt": asked, "chosen": "bee", "rejected": "cat"} for asked in ASKED]
RATED = [{"prompt": asked, "response": word, "score": s} for asked in ASKED for word, s in (("bee", 3), ("cat", 1))]
ANSWERED = [{"prompt": asked, "completion": "bee"} for asked in ASKED]
DROPS = {"dataloader_drop_last": True, "per_device_train_batch_size": 11}
OF_TASK = {"format": "prompts", "source": "asked.jsonl"}

Rows = list[dict[str, Any]]


def put(name: str, rows: Rows) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_base(tmp_path / "base")
    good = {"prompt": "why", "answer": "3", "choices": ["3", "ant"]}
    put("asked.jsonl", [{"prompt": "how", "answer": "ant"}, good])
    put("unanswered.jsonl", [{"prompt": "how", "answer": ""}, good])


def recipe(rows: Rows, form: str, stage: dict[str, Any], **own: Any) -> dict[str, Any]:
    put("rows.jsonl", rows)
    short = {} if stage["stage"] == "evaluate" else {"trainer": {"max_steps": 1, **stage.get("trainer", {})}}
    data = {"format": form, "source": "rows.jsonl"}
    return {"base": "base", "data": data, "stages": [{**stage, **short}], "output_dir": "run", **own}


def measured(**task: Any) -> dict[str, Any]:
    return {"stage": "evaluate", "reward": "length", "max_new_tokens": 4, "tasks": [{"data": OF_TASK, **task}]}


# rows, their format, the stage, where the fault is, and what it says
KINDS: dict[str, tuple[Rows, str, dict[str, Any], str, str]] = {
    "pairs for less than a batch": (
        PAIRS, "preference", {"stage": "preference", "trainer": DROPS},
        "stages.0", "there are 10 rows, too few for one batch",
    ),
    "answers for less than a batch": (
        PAIRS, "preference", {"stage": "sft", "trainer": DROPS},
        "stages.0", "there are 10 rows, too few for one batch",
    ),
    "logged prompts for less than a batch": (
        RATED, "ratings", {"stage": "offline", "trainer": DROPS},
        "stages.0", "there are 10 rows, too few for one batch",
    ),
    "rows without padding that are to be cut": (
        PAIRS, "preference", {"stage": "sft", "trainer": {"padding_free": True}},
        "stages.0", "padding_free: cuts no row at `max_length`: write `max_length: null`",
    ),
    "packing without an end": (
        PAIRS, "preference", {"stage": "sft", "trainer": {"packing": True, "max_length": None}},
        "stages.0", "packing: rows are packed up to `max_length` tokens: write one",
    ),
    "no optimizer beside a base": (
        PAIRS, "preference", {"stage": "sft", "optimizer": "start"},
        "stages.0.optimizer", "base kept no optimizer: write `keep_optimizer: true` where it is trained",
    ),
    "an answer that is no number": (
        PAIRS, "preference", measured(use="answers", reward="number_match"),
        "stages.0.tasks.0", "reward: the answer to the prompt 'how' is 'ant', which has no number",
    ),
    "an answer that no pattern finds": (
        PAIRS, "preference", measured(use="answers", reward={"use": "number_match", "pattern": "<(.*)>"}),
        "stages.0.tasks.0", "reward: the answer to the prompt 'how' is 'ant', which has no number",
    ),
    "no answer": (
        PAIRS, "preference", measured(use="answers", data={**OF_TASK, "source": "unanswered.jsonl"}),
        "stages.0.tasks.0", "task answers: the reward abstains on the answer to 'how'",
    ),
    "no column of answers": (
        PAIRS, "preference", measured(use="violations", reward={"use": "exact_match", "column": "answr"}),
        "stages.0.tasks.0", "reward: the prompts have no column 'answr' (did you mean answer?",
    ),
    "no tests of code": (
        PAIRS, "preference", measured(use="violations", reward={"use": "code", "column": "choices"}),
        "stages.0.tasks.0", "task violations: the reward abstains on the answer to 'how'",
    ),
    "no choices": (
        PAIRS, "preference", measured(use="choices"),
        "stages.0.tasks.0", "task choices: the row 'how' has no list of two or more texts in the column 'choices'",
    ),
    "no room for an answer to a task": (
        PAIRS, "preference", measured(use="answers", max_new_tokens=500),
        "stages.0.tasks.0", "500 tokens of the 256 that the model takes; write a smaller max_new_tokens: 255 fits all",
    ),
}  # fmt: skip


def faults(written: dict[str, Any], preflight: Preflight | None = None) -> list[tuple[str, str]]:
    try:
        load_recipe(written, preflight=preflight or Preflight())
    except RecipeError as error:
        return [(fault.path, fault.message) for fault in error.faults]
    return []


@pytest.mark.parametrize("kind", KINDS)
def test_a_check_refuses_what_a_run_refuses(kind: str) -> None:
    rows, form, stage, place, said = KINDS[kind]
    written = recipe(rows, form, stage)
    ((path, message),) = faults(written)
    assert path == place
    assert said in message
    with pytest.raises(RlhfError) as refused:
        run_recipe(written, say=lambda _: None)
    assert message in str(refused.value)


LEFT = "(left out or cut: 2 x response longer than max_length)"
COUNTED: dict[str, tuple[dict[str, Any], str]] = {
    "pairs": ({"stage": "preference"}, f"8 pairs of 10 rows {LEFT}"),
    "groups": ({"stage": "reward_model"}, f"8 pairs of 10 rows {LEFT}"),
    "answers": ({"stage": "sft"}, f"8 of 10 rows {LEFT}"),
}


@pytest.mark.parametrize("kind", COUNTED)
def test_rows_that_a_stage_leaves_out_are_not_counted_on(kind: str) -> None:
    (stage, said), lines = COUNTED[kind], list[str]()
    rows = [*PAIRS[:8], *({**row, "chosen": "ant " * 20} for row in PAIRS[8:10]), {**PAIRS[10], "chosen": "cat"}]
    data = {"format": "preference", "source": "rows.jsonl", "test_source": "test.jsonl"}
    put("test.jsonl", PAIRS[11:])
    short = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "num_train_epochs": 3}
    own = {"max_length": 20, "data": data, "stages": [{**stage, "trainer": short}]}
    written = {**recipe(rows, "preference", stage), **own}
    (course,) = courses(load_recipe(written, preflight=(preflight := Preflight())), kept=preflight.kept).values()
    assert course is not None
    assert (course.steps, course.words.partition("; ")[2]) == (6, said)  # 8 rows, 4 a step, 3 times
    assert preflight.data == "data: 10 groups to train on, 1 held out, 1 dropped (chosen equals rejected)"
    run_recipe(written, say=lines.append)
    assert preflight.data in lines
    (result,) = open_run("run").finished
    assert result.curves["loss"].points[-1][0] == 6
    assert {why: n for why, n in result.report.left_out.items() if n} == {"response longer than max_length": 2}


def test_prompts_without_room_are_not_counted_on() -> None:
    stage = {"stage": "online", "reward": "length", "advantage": "rloo"}
    stage["trainer"] = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 4}
    written = {**recipe(PAIRS, "preference", stage), "max_length": 14}  # ASKED[i] has i + 3 tokens
    (course,) = courses(load_recipe(written, preflight=(preflight := Preflight())), kept=preflight.kept).values()
    assert course is not None
    taken = next(iter(preflight.kept.values()))
    assert (taken.taken, taken.looked) == (sum(len(row["prompt"].split()) <= 10 for row in trained_on(written)), 10)
    assert "prompt that leaves no room for 4 tokens of the 14 of max_length" in course.words


def trained_on(written: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that are not held out."""
    train = load_recipe(written).data.load(Base("base"), 0).train
    return [row for row in PAIRS if row["prompt"] in {group.prompt for group in train}]


def test_what_is_taken_of_the_first_rows_is_expected_of_all() -> None:
    some = Kept(90, 100, {"long": 10, "cut": 0}, "pairs", 1000)
    assert (some.of(1000), some.of(None)) == (900, None)
    assert some.words == "90 pairs of the first 100 of 1,000 rows (left out or cut: 10 x long)"
    assert replace(some, rows=None).words == "90 pairs of the first 100 rows (left out or cut: 10 x long)"
    assert replace(some, rows=100, unit="rows").words == "90 of 100 rows (left out or cut: 10 x long)"
    assert not replace(some, left_out={"cut": 0}).words


@pytest.mark.parametrize(
    ("rows", "form", "algorithms", "refused", "unseen"),
    [
        (ANSWERED, "supervised", ["dpo"], 1, []),
        (ANSWERED, "supervised", ["dpo", "ppo"], 1, []),
        (ANSWERED, "supervised", ["dpo", "sft"], 0, ["what stage auto chooses, of which dpo would fail, dpo: no pair"]),
        (PAIRS, "preference", ["dpo", "ipo"], 0, []),
    ],
)
def test_the_algorithms_of_auto_are_rehearsed(
    rows: Rows, form: str, algorithms: list[str], refused: int, unseen: list[str]
) -> None:
    stage = {"stage": "auto", "algorithms": algorithms, "own": {"sft": [{"stage": "sft"}]}}
    written = recipe(rows, form, stage)
    found = faults(written, preflight := Preflight())
    assert ["no algorithm can train: dpo would fail, dpo: no pair" in message for _, message in found] == refused * [1]
    assert [said in whole for whole, said in zip(preflight.unseen, unseen, strict=True)] == [True] * len(unseen)


def test_a_kept_optimizer_beside_a_base_is_no_fault() -> None:
    first = recipe(PAIRS, "preference", {"stage": "sft", "keep_optimizer": True})
    kept = run_recipe(first, say=lambda _: None).folder / "01-sft" / "model"
    again = recipe(PAIRS, "preference", {"stage": "sft", "optimizer": "start"}, base=str(kept), output_dir="again")
    assert not faults(again)
    assert run_recipe(again, say=lambda _: None).folder == Path("again")


GUEST = """
from dataclasses import dataclass

from rlhf_plugins import RewardLoss, hookimpl


@dataclass(frozen=True)
class Learned(RewardLoss):
    def __call__(self, scores):
        return scores.rejected - scores.chosn


@hookimpl
def register_reward_loss():
    return {"learned": Learned}
"""


def test_a_loss_of_a_guest_that_fails_is_a_fault() -> None:
    Path("guest.py").write_text(GUEST)
    written = recipe(PAIRS, "preference", {"stage": "reward_model", "loss": "learned"}, plugins=["guest.py"])
    ((path, message),) = faults(written)
    assert path == "stages.0"
    assert "AttributeError: 'RankedScores' object has no attribute 'chosn'" in message
    with pytest.raises(RlhfError) as refused:
        run_recipe(written, say=lambda _: None)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "stage",
    [
        {"stage": "preference"},
        {"stage": "sft"},
        {"stage": "online", "reward": "length", "advantage": "rloo"},
        {"stage": "offline"},
        {"stage": "evaluate", "reward": "length", "max_new_tokens": 4},
    ],
    ids=str,
)
def test_an_encoder_is_no_base_of_a_policy(stage: dict[str, Any]) -> None:
    tiny_encoder(Path("bert"))
    rated = stage["stage"] == "offline"
    written = recipe(RATED if rated else PAIRS, "ratings" if rated else "preference", stage, base="bert")
    ((path, message),) = faults(written)
    assert path == "stages.0"
    assert "bert: is an encoder (bert), which cannot write a response: a policy needs a decoder" in message
    with pytest.raises(RlhfError) as refused:
        run_recipe(written, say=lambda _: None)
    assert message in str(refused.value)


def test_an_encoder_is_the_base_of_a_reward_model() -> None:
    tiny_encoder(Path("bert"))
    assert not faults(recipe(PAIRS, "preference", {"stage": "reward_model"}, base="bert"))


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    Path("file").touch()
    written = recipe(PAIRS, "preference", {"stage": "sft"}, output_dir="file/run")
    ((path, message),) = faults(written)
    assert (path, message) == ("output_dir", f"file/run cannot be written: {Path.cwd() / 'file'} is no folder")
    with pytest.raises(RlhfError, match="file/run cannot be written: Not a directory"):
        run_recipe(written, say=lambda _: None)


def test_a_folder_that_the_user_may_not_write_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("theirs").mkdir()
    monkeypatch.setattr("os.access", lambda path, _: Path(path).name != "theirs")  # root may write everywhere
    ((path, message),) = faults(recipe(PAIRS, "preference", {"stage": "sft"}, output_dir="theirs/a/run"))
    assert path == "output_dir"
    assert message == f"theirs/a/run cannot be written: this user may not write in {Path.cwd() / 'theirs'}"
    assert not faults(recipe(PAIRS, "preference", {"stage": "sft"}, output_dir="ours/run"))


UNOPENED: dict[str, tuple[dict[str, Any], str]] = {
    "modules": ({"modules_to_save": ["lm_head"]}, "has `modules_to_save: ['lm_head']`: it trained whole modules"),
    "tokens": ({"trainable_token_indices": [1, 2]}, "has `trainable_token_indices: [1, 2]`: it trained rows of the"),
    "biases": ({"bias": "all"}, "has `bias: all`: it trained biases of the base, and policies here share"),
    "pissa": ({"init_lora_weights": "pissa"}, "`init_lora_weights: pissa`, which changed the weights of its base"),
    "alora": ({"alora_invocation_tokens": [3]}, "has `alora_invocation_tokens: [3]`: it begins at these tokens"),
}


@pytest.mark.parametrize("kind", UNOPENED)
def test_an_adapter_that_does_not_open_is_refused(kind: str) -> None:
    options, said = UNOPENED[kind]
    model = AutoModelForCausalLM.from_pretrained("base")
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options)).save_pretrained("adapter")
    ((path, message),) = faults(recipe(PAIRS, "preference", {"stage": "preference"}, base="adapter"))
    assert path == "base"
    assert said in message
    with pytest.raises(RunError, match="adapter: has|adapter: was trained"):
        load_policy("adapter")


@pytest.mark.parametrize("damage", ["another base", "no weights", "torn", "pickled"])
def test_an_adapter_that_is_damaged_or_of_another_base_is_refused(damage: str) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    get_peft_model(AutoModelForCausalLM.from_pretrained("base"), config).save_pretrained("adapter")
    weights = Path("adapter/adapter_model.safetensors")
    if damage == "another base":
        tiny_base(Path("base"), hidden_size=16)
    elif damage == "torn":
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        weights.rename("adapter/adapter_model.bin" if damage == "pickled" else "elsewhere")
    written = recipe(PAIRS, "preference", {"stage": "sft"}, base="adapter")
    ((path, message),) = faults(written)
    assert path == "base"
    assert "adapter: its adapter does not load: " in message
    with pytest.raises(RlhfError, match="its adapter does not load: "):
        run_recipe(written, say=lambda _: None)


def test_an_adapter_of_dora_opens() -> None:
    model = AutoModelForCausalLM.from_pretrained("base")
    config = LoraConfig(task_type="CAUSAL_LM", use_dora=True, lora_dropout=0.1, rank_pattern={"q_proj": 2})
    get_peft_model(model, config).save_pretrained("adapter")
    written = recipe(PAIRS, "preference", {"stage": "preference"}, base="adapter")
    assert not faults(written)
    assert run_recipe(written, say=lambda _: None).folder == Path("run")


def test_the_record_of_a_run_has_the_adapter_that_was_trained() -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=5, target_modules=["q_proj"])
    get_peft_model(AutoModelForCausalLM.from_pretrained("base"), config).save_pretrained("adapter")
    written = recipe(PAIRS, "preference", {"stage": "sft"}, base="adapter")
    run_recipe(written, say=lambda _: None)
    recorded = yaml.safe_load(Path("run/recipe.yaml").read_text())["adapter"]
    assert (recorded["r"], recorded["lora_alpha"], recorded["target_modules"]) == (3, 5, ["q_proj"])
    export_policy(made("run"), Path("exported"))
    assert "  r: 3\n  lora_alpha: 5\n" in Path("exported/README.md").read_text()
    run_recipe(Path("run/recipe.yaml"), resume=True, say=lambda _: None)
    other = {**written, "adapter": {"r": 16, "lora_alpha": 8}, "output_dir": "other"}
    assert "its adapter is trained further as it is" in faults(other)[0][1]
    assert load_recipe({**written, "adapter": "none"}).resolved["adapter"] is None
