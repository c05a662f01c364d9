"""A recipe is resolved with every default spelled out, and all of its faults come at once, each in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf_plugins.errors import RecipeError
from rlhf_plugins.recipe.check import check_recipe, find
from rlhf_plugins.registry.registry import Registry

Checked = Callable[..., dict[str, Any]]

LOUD = """\
base: sandbox
data: {format: rows, rows: 3}
adapter: {r: 4}
stages:
  - stage: make
    loss: {use: scaled, scale: 1e-5, steps: [3], inner: {use: scaled, scale: 2}}
    decay: {rate: 1}
    trainer: {max_steps: 10, learning_rate: 1e-5, warmup_steps: 3}
  - judge
"""


SHORT = "base: sandbox\ndata: rows\nstages: [make]\n"


def faults(checked: Checked, text: str, *overrides: str) -> list[str]:
    """Each fault as a line of text."""
    with pytest.raises(RecipeError) as caught:
        checked(text, *overrides)
    return str(caught.value).splitlines()


def test_defaults_are_spelled_out(checked: Checked) -> None:
    recipe = checked("base: sandbox\ndata: rows\nstages: [make]\n")
    assert recipe["stages"] == [
        {"stage": "make", "loss": {"use": "plain"}, "decay": None}
        | {"flag": "", "stop": "error", "name": "make", "trainer": {}}
    ]
    assert recipe["data"] == {"format": "rows", "rows": 2}
    assert (recipe["seed"], recipe["quantization"], recipe["adapter"]["r"]) == (0, "none", 16)
    assert recipe["output_dir"] == "runs/recipe"


def test_options_reach_every_level(checked: Checked) -> None:
    stage = checked(LOUD)["stages"][0]
    assert stage["loss"]["scale"] == 1e-5  # text in YAML 1.1
    assert stage["loss"]["inner"]["inner"] == {"use": "plain"}
    assert stage["decay"] == {"rate": 1.0}
    assert stage["trainer"] == {"max_steps": 10, "learning_rate": 1e-5, "warmup_steps": 3}


@pytest.mark.parametrize("text", [LOUD, "base: sandbox\ndata: rows\nstages: [make]\nadapter: none\n"])
def test_a_resolved_recipe_resolves_to_itself(text: str, checked: Checked) -> None:
    once = checked(text)
    dumped = yaml.safe_dump(once, sort_keys=False)
    assert yaml.safe_load(dumped) == once
    assert checked(dumped) == once


def test_a_default_component_takes_options_without_its_name(checked: Checked) -> None:
    recipe = checked("base: sandbox\ndata: rows\nstages: [{stage: make, loss: {use: scaled, inner: {}}}]\n")
    assert recipe["stages"][0]["loss"]["inner"] == {"use": "plain"}


def test_every_fault_comes_at_once_in_order(checked: Checked) -> None:
    text = "base: sandbox\nsede: 1\ndata: {format: rows, rows: -1}\nstages:\n- {stage: make, los: x}\n- jugde\n"
    assert [line.split(" (")[0] for line in faults(checked, text)] == [
        "recipe.yaml:2: sede: unknown option",
        "recipe.yaml:3: data.rows: should be greater than or equal to 0, got -1",
        "recipe.yaml:5: stages.0.los: unknown option",
        "recipe.yaml:6: stages.1: unknown stage 'jugde'",
    ]


def test_a_constructor_that_refuses_is_a_fault_of_its_block(checked: Checked) -> None:
    text = "base: sandbox\ndata: rows\nstages:\n- stage: make\n  loss:\n    {use: scaled, scale: 13}\n"
    assert faults(checked, text) == ["recipe.yaml:5: stages.0.loss: scale must not be 13"]


def test_names_of_stages_differ_and_can_be_folders(checked: Checked) -> None:
    text = "base: sandbox\ndata: rows\nstages:\n- make\n- judge\n- make\n- {stage: make, name: ../x}\n"
    assert faults(checked, text) == [
        "recipe.yaml:6: stages.2: also stages.0 is called 'make'; give one of them a `name:`",
        "recipe.yaml:7: stages.3: the name '../x' cannot name a folder; write letters, digits, '-', '_' and '.'",
    ]


def test_a_base_is_a_model_folder_or_a_hub_name(checked: Checked, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    rest = "\ndata: rows\nstages: [make]\n"
    assert "holds no config.json" in faults(checked, "base: model" + rest)[0]
    assert "not a hub name" in faults(checked, "base: ./nowhere" + rest)[0]
    (tmp_path / "model" / "config.json").write_text("{}")
    assert checked("base: model" + rest)["base"] == str(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"is_encoder_decoder": true}')
    assert "is an encoder-decoder, such as T5" in faults(checked, "base: model" + rest)[0]
    assert checked("base: Qwen/Qwen3-1.7B" + rest)["base"] == "Qwen/Qwen3-1.7B"


def test_quantized_weights_need_an_adapter(checked: Checked) -> None:
    text = "base: sandbox\nquantization: nf4\nadapter: none\ndata: rows\nstages: [make]\n"
    (fault,) = faults(checked, text)
    assert fault.startswith("recipe.yaml:2: quantization: needs an adapter")


def test_trl_names_and_refuses_its_own_options(checked: Checked) -> None:
    text = "base: sandbox\ndata: rows\nstages:\n- stage: make\n  trainer: {%s}\n"
    (fault,) = faults(checked, text % "max_stepz: 3")
    assert fault.endswith("unknown option of trl.RewardConfig (did you mean max_steps or save_steps or eval_steps?)")
    (fault,) = faults(checked, text % "fp16: true, bf16: true")
    assert fault.startswith("recipe.yaml:5: stages.0.trainer: trl.RewardConfig refuses these options: At most one of")
    (fault,) = faults(checked, text % "max_length: 3")
    advice = "leave it out; `rlhf plugins show stage NAME` lists the stage's own options"
    assert fault == f"recipe.yaml:5: stages.0.trainer.max_length: is set by the stage or not read; {advice}"


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("eval_strategy: epochs", "unknown value 'epochs' (did you mean epoch? known: epoch, no, steps)"),
        ("lr_scheduler_type: cosin", "unknown value 'cosin' (did you mean cosine? known: constant, "),
        ("log_level: debig", "unknown value 'debig' (did you mean debug? known: critical, debug, "),
        ("save_strategy: no", '(known: best, epoch, no, steps); YAML reads no as false: write "no"'),
    ],
)
def test_a_word_of_a_fixed_list_is_answered_by_the_nearest(written: str, answer: str, checked: Checked) -> None:
    (fault,) = faults(checked, f"base: sandbox\ndata: rows\nstages:\n- stage: make\n  trainer: {{{written}}}\n")
    assert answer in fault


def test_a_recipe_with_a_name_too_long_for_a_file_is_no_traceback() -> None:
    with pytest.raises(RecipeError, match="no such file, nor a bundled recipe of that name"):
        find("x" * 5000)


@pytest.mark.parametrize("name", ['"a\\0b"', "a" * 300, "x/" + "a" * 300, '"\\uD800"'])
def test_a_name_that_no_file_can_have_is_a_fault(name: str, checked: Checked) -> None:
    for key, value in (("output_dir", name), ("plugins", f"[{name}]")):
        with pytest.raises(
            RecipeError, match=rf"{key}.*no file or folder can have this name|which YAML does not allow"
        ):
            checked(f"{SHORT}{key}: {value}\n")


def test_a_home_folder_is_written_out(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert checked(f"{SHORT}output_dir: ~/runs\n")["output_dir"] == "/home/me/runs"
    with pytest.raises(RecipeError, match=r"output_dir: '~nobody-here/runs' begins with ~, and there is no such user"):
        checked(f"{SHORT}output_dir: ~nobody-here/runs\n")


def test_the_name_of_a_recipe_is_its_file_or_a_bundled_one(registry: Registry) -> None:
    with pytest.raises(RecipeError, match="nosuch.yaml:1: no such file"):
        check_recipe("nosuch.yaml", (), registry)


def test_a_plugin_that_is_not_there_hides_no_other_fault(checked: Checked) -> None:
    found = faults(checked, "base: sandbox\ndata: rows\nstages: [make]\nplugins: [./missing.py]\nsead: 3\n")
    assert len(found) == 2
    assert "missing.py' cannot be read" in found[0]
    assert "sead" in found[1]


def test_a_plugin_that_the_command_line_takes_out_is_never_read(checked: Checked) -> None:
    text = "base: sandbox\ndata: rows\nstages: [make]\nplugins: [./missing.py]\n"
    assert checked(text, "plugins=[]", "stages.0.flag=x")["plugins"] == []


def test_a_stage_that_a_broken_plugin_would_bring_is_missed_beside_the_plugins_own_fault(checked: Checked) -> None:
    text = "base: sandbox\ndata: rows\nstages: [make]\nplugins: [./missing.py]\n"
    found = "\n".join(faults(checked, text, "stages.mine.flag=x"))
    assert "missing.py' cannot be read" in found
    assert "no stage 'mine'" in found


def test_a_recipe_with_every_default_spelled_out_is_as_sound_as_it_was() -> None:
    online = {"stage": "online", "advantage": "rloo"}
    whole = check_recipe({"base": "sandbox", "data": "sandbox", "stages": ["reward_model", online]})
    assert whole["stages"][1]["value"]["coef"] == 0.1
    assert check_recipe(whole) == whole
