"""`rlhf update`: the recipe, the measured change on old and new data, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from rlhf_continual.commands import update
from rlhf_continual.update import Change, changes, recipe
from typer.testing import CliRunner

from rlhf_plugins import Evaluation, RunError, open_run, run_recipe

DATA = {"format": "sandbox", "prompts": 24, "test_prompts": 8, "responses": 2, "pairs": 1}
DPO = {"stage": "preference", "name": "dpo", "trainer": {"max_steps": 1, "per_device_train_batch_size": 4}}


def done(name: str, policies: Any = None, rewards: bool = False, judge: str = "") -> SimpleNamespace:
    """A finished stage of an old run."""
    report = SimpleNamespace(judge={"kind": judge} if judge else None)
    made = {name: {"use": "saved", "path": name}} if rewards else {}
    return SimpleNamespace(name=name, policies=policies or {}, rewards=made, report=report)


def test_an_update_that_changes_nothing_has_kept_the_old() -> None:
    same = Evaluation("gold", "start", ["p", "q"], {"start": [1.0, 2.0], "updated": [1.0, 2.0]})
    record: Any = SimpleNamespace(finished=[SimpleNamespace(name="on_old", evaluation=same)])
    assert [(one.low, one.high, one.kept(0.0)[:4]) for one in changes(record)] == [(0.0, 0.0, "kept")]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "old"
    run_recipe({"base": "sandbox", "data": DATA, "output_dir": str(folder), "stages": [DPO]}, say=lambda _: None)
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "new.jsonl"
    animals = ("ant", "bee", "cat", "dog", "elk", "fox")
    written = [{"prompt": f"who is the {a}?", "chosen": f"the {a}", "rejected": f"the {a} the {a}"} for a in animals]
    file.write_text("".join(json.dumps(row) + "\n" for row in written))
    return file


def test_the_recipe_is_the_old_stage_from_its_policy(old: Path, tmp_path: Path) -> None:
    ewc = [{"use": "ewc", "strength": 5.0}]
    words = recipe(f"{old}#dpo", {"format": "x"}, tmp_path / "out", keep=ewc, prompts=8)
    trained, new, before = words["stages"]
    assert (words["base"], words["data"]) == (f"{old}#dpo", {"format": "x"})
    assert trained["trainer"] == DPO["trainer"]
    assert trained["regularizers"][0]["data"]["format"] == "sandbox"
    assert (new["name"], before["name"], before["data"]["format"]) == ("on_new", "on_old", "sandbox")


def test_an_update_of_all_weights_trains_all_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not a new adapter, of which `ewc` would hold one half."""
    found: list[Any] = []
    for adapter in (None, {"r": 4}):
        record = SimpleNamespace(
            recipe={"stages": [DPO], "data": DATA, "adapter": adapter}, folder=tmp_path, finished=[]
        )
        monkeypatch.setattr("rlhf_continual.update.open_run", lambda folder, old=record: old)
        found.append(recipe("old", DATA, tmp_path, keep=[], prompts=2).get("adapter"))
    assert found == ["none", None]


def test_an_update_starts_from_the_policy_of_the_stage_and_keeps_its_lengths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`base: old` would be the policy of whatever stage came last."""
    made = [done("dpo", policies={"dpo": {}}), done("small")]
    old = {"stages": [DPO, {"stage": "distill", "name": "small"}], "data": DATA, "max_length": 9, "truncation": "cut"}
    record = SimpleNamespace(recipe=old, folder=Path("old"), finished=made)
    monkeypatch.setattr("rlhf_continual.update.open_run", lambda folder: record)
    words = recipe("old", DATA, tmp_path, keep=[], prompts=2)
    assert (words["base"], words["max_length"], words["truncation"]) == ("old#dpo", 9, "cut")
    made[1].policies["small"] = {}
    with pytest.raises(RunError, match="its last policy is of the stage small, which is not trained again; name old#d"):
        recipe("old", DATA, tmp_path, keep=[], prompts=2)
    assert recipe("old#dpo", DATA, tmp_path, keep=[], prompts=2)["base"] == "old#dpo"


@pytest.mark.parametrize(
    ("keeps", "is_there", "optimizer"), [(True, True, "start"), (True, False, "new"), (False, True, "new")]
)
def test_an_update_goes_on_with_the_optimizer_that_the_old_stage_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keeps: bool, is_there: bool, optimizer: str
) -> None:
    if is_there:
        (tmp_path / "optimizer.safetensors").touch()
    stage = {**DPO, "optimizer": "start", "keep_optimizer": keeps}  # whatever the old stage itself began with
    made = [done("dpo", policies={"dpo": {"use": "trained", "path": str(tmp_path / "policy")}})]
    record = SimpleNamespace(recipe={"stages": [stage], "data": DATA}, folder=tmp_path, finished=made)
    monkeypatch.setattr("rlhf_continual.update.open_run", lambda folder: record)
    assert recipe("old", DATA, tmp_path, keep=[], prompts=2)["stages"][0]["optimizer"] == optimizer


def test_the_optimizer_of_a_real_run_is_found(old: Path, tmp_path: Path) -> None:
    words = {"base": "sandbox", "data": DATA, "output_dir": str(tmp_path / "kept")}
    run_recipe({**words, "stages": [{**DPO, "keep_optimizer": True}]}, say=lambda _: None)
    found = [recipe(str(run), DATA, tmp_path / "out", keep=[], prompts=2) for run in (old, tmp_path / "kept")]
    assert [each["stages"][0]["optimizer"] for each in found] == ["new", "start"]


def test_rows_of_the_stage_itself_give_way_to_the_new_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = {**DATA, "prompts": 20}
    record = SimpleNamespace(recipe={"stages": [{**DPO, "data": own}], "data": DATA}, folder=tmp_path, finished=[])
    monkeypatch.setattr("rlhf_continual.update.open_run", lambda folder: record)
    words = recipe("old", {"format": "x"}, tmp_path, keep=[{"use": "ewc"}], prompts=2)
    trained, _, before = words["stages"]
    assert (words["data"], trained.get("data")) == ({"format": "x"}, None)
    assert trained["regularizers"][0]["data"] == before["data"] == own


def test_an_update_asks_the_old_reward_model_and_measures_the_kl_to_its_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The new run has neither the reward model nor the policy `sft`; the latest before the stage is `rm`."""
    parts = [{"use": "model", "stage": None}, {"use": "model", "stage": "first"}, {"use": "length"}]
    ppo = {"stage": "online", "name": "ppo", "reward": {"use": "weighted", "parts": parts}, "reference": "sft"}
    finished = [done("first", rewards=True), done("rm", rewards=True), done("ppo"), done("later", rewards=True)]
    record = SimpleNamespace(recipe={"stages": [ppo], "data": DATA}, folder=tmp_path, finished=finished)
    monkeypatch.setattr("rlhf_continual.update.open_run", lambda folder: record)
    trained = recipe("old", DATA, tmp_path, keep=[], prompts=2)["stages"][0]
    saved = [{"use": "saved", "path": path} for path in ("old#rm", "old#first")]
    assert trained["reward"]["parts"] == [*saved, {"use": "length"}]
    assert (trained["from"], trained["reference"]) == ("previous", "start")
    finished[:2] = []
    with pytest.raises(RunError, match="no stage before ppo left a reward model"):
        recipe("old", DATA, tmp_path, keep=[], prompts=2)


SAVED = {"reward": {"use": "saved", "path": "old#rm"}}
TASKS = {"tasks": [{"use": "reward_wins", "reward": {"use": "model", "stage": None}}]}
JUDGE = {"judge": {"use": "reward", "reward": {"use": "model", "stage": None}}, "max_new_tokens": 8}


@pytest.mark.parametrize(
    ("asked", "by", "new", "old"),
    [
        ({}, "reward model", SAVED, SAVED),
        ({"reward": None}, "gold", SAVED, {}),
        ({"reward": {"use": "gold"}}, "function", SAVED, {}),
        (
            JUDGE,
            "judge",
            {**JUDGE, "judge": {"use": "reward", **SAVED}},
            {**JUDGE, "judge": {"use": "reward", **SAVED}},
        ),
        (TASKS, "gold", SAVED, {"tasks": [{"use": "reward_wins", **SAVED}]}),
    ],
)
def test_an_update_judges_by_what_judged_the_old_run(
    asked: Any, by: str, new: Any, old: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It has no reward model of its own, and would judge by the likelihood of held-out answers."""
    finished = [done("rm", rewards=True), done("dpo", {"dpo": {}}), done("evaluate", judge=by)]
    stages = [DPO, {"stage": "evaluate", "name": "evaluate", **asked}]
    record = SimpleNamespace(recipe={"stages": stages, "data": DATA}, folder=tmp_path, finished=finished)
    monkeypatch.setattr("rlhf_continual.update.open_run", lambda folder: record)
    plain = {"stage": "evaluate", "prompts": 2, "best_of": 1}
    measured = recipe("old", {}, tmp_path, keep=[], prompts=2)["stages"][1:]
    assert measured == [{**plain, **new, "name": "on_new"}, {**plain, **old, "name": "on_old", "data": DATA}]


@pytest.mark.slow
def test_an_update_measures_old_and_new(old: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    options = ["--out", str(out), "--prompts", "4", "--strength", "10"]
    command = typer.Typer()
    command.command()(update)
    done = CliRunner().invoke(command, [f"{old}#dpo", str(rows), *options], catch_exceptions=False)
    assert done.exit_code == 0
    assert "old data, 4 prompts, by gold reward: " in done.output
    found = {change.data: change for change in changes(open_run(out))}
    assert found["old"].low <= found["old"].mean <= found["old"].high


def test_a_stage_that_trained_no_policy_is_named(old: Path, tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"keep": [], "prompts": 2}
    with pytest.raises(RunError, match=r"no stage 'ppo' trained a policy \(those that did: dpo\)"):
        recipe(f"{old}#ppo", {}, tmp_path, **nothing)


@pytest.mark.parametrize(
    ("low", "high", "words"), [(-0.05, 0.1, "kept"), (-0.3, -0.2, "lost"), (-0.3, 0.1, "not shown")]
)
def test_what_an_interval_shows_of_the_promise(low: float, high: float, words: str) -> None:
    assert Change("old", 9, 1.0, (low + high) / 2, low, high, "gold reward").kept(0.1).startswith(words)
