"""A reference finds what a stage made, wherever the run is now, and a wrong one names the nearest."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from finished import finished_run

from rlhf_plugins import load_policy, load_reward_function
from rlhf_plugins.data.digests import of_base
from rlhf_plugins.errors import RunError
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.saved.policy_export import export_policy
from rlhf_plugins.saved.run_reference import made
from rlhf_plugins.testing import tiny_base


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return finished_run(tmp_path_factory.mktemp("made") / "a")


def test_a_reference_is_a_run_a_stage_or_a_folder(run: RunFolder) -> None:
    words = ("", "#sft", "#sft/sft", "#base", "#judge", "/02-dpo/model")
    found = [made(f"{run.path}{word}") for word in words]
    assert [one.stage for one in found] == ["dpo", "sft", "sft", "base", "judge", "dpo"]
    assert [one.part for one in found] == [*["policies"] * 4, "rewards", "policies"]
    assert made(str(run.path), "rewards").stage == "judge"


def test_the_base_of_a_run_is_what_it_started_from(run: RunFolder) -> None:
    handle = made(f"{run.path}#base").policy()
    assert (handle.backbone.base.path, handle.adapter) == (run.recipe()["base"], None)  # type: ignore[attr-defined]


def test_the_base_of_a_run_may_be_a_policy_of_another(run: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(tmp_path / "b")
    other.start({**run.recipe(), "base": f"{run.path}#dpo"}, run.status())
    first, again = (made(f"{words}").policy() for words in (f"{run.path}#dpo", f"{other.path}#base"))
    samples = first.encode(["how "], ["ant bee"])
    assert torch.equal(again.log_probs(samples), first.log_probs(samples))
    with pytest.raises(RunError, match="#base: is the policy that the run started from: `rlhf export .*02-dpo/model O"):
        export_policy(made(f"{other.path}#base"), tmp_path / "out")
    with pytest.raises(RunError, match="#base: is the model that the run started from, .*/base, which transformers op"):
        export_policy(made(f"{run.path}#base"), tmp_path / "out")


@pytest.fixture
def moved(run: RunFolder, tmp_path: Path) -> Iterator[Path]:
    """The run in another folder, and none where it was."""
    shutil.move(run.path, tmp_path / "b")
    yield tmp_path / "b"
    shutil.move(tmp_path / "b", run.path)


def test_a_moved_run_opens_what_it_holds(run: RunFolder, moved: Path) -> None:
    assert not run.path.exists()
    answer = made(f"{moved}#dpo").policy().sample(["how "], max_new_tokens=4)
    judge = made(f"{moved}#judge").reward()
    assert judge.predict(judge.encode(answer.prompts, answer.responses)).reward.shape == (1,)


def test_scripts_take_references_too(run: RunFolder) -> None:
    assert load_policy(f"{run.path}#dpo").backbone.base.path == str(run.path / "01-sft/model")
    assert load_reward_function(run.path).__name__ == "03-judge"
    with pytest.raises(RunError, match="#base: is not saved as a model in a folder"):
        load_policy(f"{run.path}#base")


@pytest.mark.parametrize("name", ["load_policy", "load_reward_model", "load_reward_function"])
def test_a_folder_that_is_not_there_is_named_before_anything_heavy_is_imported(name: str, tmp_path: Path) -> None:
    code = f"import sys\nfrom rlhf_plugins import RlhfError, {name}\ntry:\n {name}('nope')\nexcept RlhfError as e:\n"
    code += " print(e, {'torch', 'transformers', 'peft', 'datasets'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.endswith("there is no such folder (known: none) set()\n")


def test_another_base_in_its_place_is_refused(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", on_base=True)
    run.note(base=of_base(run.recipe()["base"]))
    assert made(f"{run.path}#dpo").policy()
    tiny_base(Path(run.recipe()["base"]), seed=5)
    for stage in ("dpo", "base"):
        with pytest.raises(
            RunError, match=f"{stage} was trained on another base: .*base/model.safetensors has changed"
        ):
            made(f"{run.path}#{stage}").policy()
    assert made(f"{run.path}#sft").policy()  # a whole model needs no base


WRONG = [
    ("a#dop", None, r"a#dop: the run has no stage 'dop' that made a policy or reward model \(did you mean dpo\?"),
    ("a#judge", "policies", r"that stage made no policy \(known: base, dpo, sft\)"),
    ("a#late", None, "a#late: that stage has not finished"),
    ("a#", "rewards", r"name a stage after the # \(known: judge\)"),
    ("aa#dpo", None, r"aa: holds no policy or reward model: there is no such folder \(did you mean a\?"),
    ("a/02-dpo#dpo", None, "is no run, so it has no stage 'dpo'"),
    ("a/02-dpo", "policies", "holds no policy, and no run"),
    ("a/03-judge/model", "policies", "holds a reward model, and a policy is needed"),
]


@pytest.mark.parametrize(("words", "part", "message"), WRONG)
def test_a_wrong_reference_is_one_line(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, words: str, part: str | None, message: str
) -> None:
    monkeypatch.chdir(run.path.parent)
    with pytest.raises(RunError, match=message):
        made(words, part)  # type: ignore[arg-type]


def test_an_unfinished_stage_names_the_newest_step_that_was_saved(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "a")
    late = run.path / "04-late"
    for step, file in ((9, "adapter_config.json"), (10, "adapter_config.json"), (11, "trained.safetensors")):
        (late / f"checkpoint-{step}").mkdir(parents=True)
        for name in (file, "trainer_state.json"):
            (late / f"checkpoint-{step}" / name).touch()
    said = f"late: that stage has not finished; its newest saved step is {run.path}#late@10 "
    with pytest.raises(RunError, match=said):
        made(f"{run.path}#late")
