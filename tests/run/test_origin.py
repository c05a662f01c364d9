"""A resume with another data file or base is refused, with other versions warned; a changed model is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import load_policy, load_reward_model
from rlhf_plugins.data.digests import digest, of_base, of_path
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.check import load_recipe
from rlhf_plugins.registry.registry import Registry
from rlhf_plugins.run import origin
from rlhf_plugins.run.files.difference import difference
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.run.run import run, run_recipe
from rlhf_plugins.testing import tiny_base

STUBS = "base: base\ndata: rows\noutput_dir: out\nstages: [make]\n"
REAL = """\
base: base
adapter: {r: 2}
data: {format: preference, source: pairs.jsonl}
output_dir: out
stages:
  - {stage: reward_model, trainer: {max_steps: 1}}
  - {stage: preference, trainer: {max_steps: 1}}
"""


def rows(count: int) -> str:
    return "".join(json.dumps({"prompt": f"p{i} ", "chosen": "ant", "rejected": "gas"}) + "\n" for i in range(count))


@pytest.fixture
def stub(write: Callable[..., Path], registry: Registry, tmp_path: Path) -> Callable[..., list[str]]:
    """Runs the stubs, and returns what is printed."""
    tiny_base(tmp_path / "base")
    said: list[str] = []

    def start(**how: Any) -> list[str]:
        said.clear()
        run(load_recipe(write(STUBS), (), registry), say=said.append, **how)
        return said

    return start


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of a reward model and a policy, with its base and data beside it."""
    folder = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tiny_base(folder / "base")
        Path("pairs.jsonl").write_text(rows(20))
        Path("r.yaml").write_text(REAL)
        run_recipe("r.yaml", say=lambda _: None)
    return folder


def test_a_resume_with_another_base_is_refused(stub: Callable[..., list[str]]) -> None:
    stub()
    with open("base/config.json", "a") as file:
        file.write("\n")
    with pytest.raises(RunError, match=r"out was started with another base: .*/base/config.json has changed; give it"):
        stub(resume=True)
    Path("base/config.json").write_text(Path("base/config.json").read_text()[:-1])
    stub(resume=True)
    Path("base/tokenizer.json").unlink()
    with pytest.raises(RunError, match=r"base/tokenizer.json is missing"):
        stub(resume=True)


def test_another_reward_function_is_warned_of(tmp_path: Path) -> None:
    (file := tmp_path / "mine.py").write_text("def score(completions): return [0.0] * len(completions)")
    stages = [{"stage": "online", "reward": {"use": "python", "path": f"{file}:score"}}]
    assembled = load_recipe({"base": "sandbox", "data": "sandbox", "stages": stages, "output_dir": str(tmp_path)})
    folder = RunFolder(tmp_path)
    folder.start(assembled.resolved, origin.noted(assembled, []))
    assert not origin.otherwise(folder, assembled.registry)
    file.write_text("def score(completions): return [1.0] * len(completions)")
    said = origin.otherwise(folder, assembled.registry)
    assert said == [f"the code of {file} is not what the run was started with"]


def test_a_resume_with_other_versions_is_warned_and_reported(stub: Callable[..., list[str]]) -> None:
    stub()
    status = json.loads(Path("out/status.json").read_text())
    here = status["versions"]["peft"]
    status["versions"]["peft"] = "0.1"
    Path("out/status.json").write_text(json.dumps(status))
    said = f"the run was started with peft 0.1; here it is {here}"
    assert f"warning: {said}" in stub(resume=True)
    assert any(said in note for note in json.loads(Path("out/report.json").read_text())["notes"])


def test_a_resume_with_another_data_file_is_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    Path("pairs.jsonl").write_text(rows(20) + "\n")  # the same rows
    run_recipe("r.yaml", resume=True, say=lambda _: None)
    Path("pairs.jsonl").write_text(rows(20).replace("p3", "p4"))
    with pytest.raises(RunError, match=r"started with other rows: .*pairs.jsonl has changed, train was 18 and is now"):
        run_recipe("r.yaml", resume=True, say=lambda _: None)


def test_data_files_of_one_name_are_each_compared_with_themselves(tmp_path: Path) -> None:
    for name, count in (("sft", 1), ("pairs", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(rows(count))
    recipe = {"stages": [{"data": str(tmp_path / name / "train.jsonl")} for name in ("sft", "pairs")]}
    read = {file: digest(Path(file)) for file in origin._files(recipe)}
    assert origin._changed_files(read, recipe) == []
    assert origin._changed_files({f"/old{name}": was for name, was in read.items()}, recipe) == []
    (tmp_path / "sft" / "train.jsonl").write_text(rows(3))
    assert origin._changed_files(read, recipe) == [str(tmp_path / "sft" / "train.jsonl")]


def test_a_folder_of_rows_is_known_by_its_files(tmp_path: Path) -> None:
    (here := tmp_path / "here" / "rows").mkdir(parents=True)
    (here / "a.jsonl").write_text(rows(1))
    read = {file: of_path(file) for file in origin._files({"data": {"source": str(here)}})}
    assert list(read) == [str(here)]
    there = shutil.copytree(here, tmp_path / "there" / "rows")
    shutil.rmtree(here)
    moved = {"data": {"source": str(there)}}
    (there / "cache-1.arrow").touch()
    assert origin._changed_files(read, moved) == []
    (there / "b.jsonl").write_text(rows(1))
    assert origin._changed_files(read, moved) == [str(there)]


def test_paths_may_move_only_where_digests_say_what_they_name() -> None:
    old, new = {"stages": [{"reward": {"path": "/a/run#rm"}}]}, {"stages": [{"reward": {"path": "/b/run#rm"}}]}
    assert difference(old, new) == "stages.0.reward.path was '/a/run#rm' and is now '/b/run#rm'"
    moved = {"base": "/a/base", "data": "/a/rows"}, {"base": "/b/base", "data": "/b/rows"}
    assert difference(*moved, digested={"/a/base", "/a/rows"}) == ""
    assert difference(*moved, digested={"/a/base"}) == "data was '/a/rows' and is now '/b/rows'"


@pytest.mark.parametrize(("stage", "load"), [("01-reward_model", load_reward_model), ("02-preference", load_policy)])
def test_a_model_that_changed_is_refused(
    stage: str, load: Callable[..., Any], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    load(f"out/{stage}/model")
    weights = Path(f"out/{stage}/model/adapter_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(RunError, match=rf"{stage}/model/adapter_model.safetensors has changed: it is not as the stage"):
        load(f"out/{stage}/model")


def test_the_base_of_a_name_that_no_folder_or_hub_has_is_unknown() -> None:
    assert of_base("nobody/nothing") is None
    assert of_base("no/such/name") is None
