"""A recipe may be a mapping: checked, run, and compared by what it means."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf_plugins import PluginError, RecipeError, RewardLoss, component, open_run, recipe_digest
from rlhf_plugins.recipe.check import check_recipe, load_recipe
from rlhf_plugins.registry.registry import Registry
from rlhf_plugins.run.run import run

Write = Callable[..., Path]
RECIPE: dict[str, Any] = {"base": "sandbox", "data": "rows", "stages": [{"stage": "make", "loss": {"use": "scaled"}}]}
OWN = """\
from dataclasses import dataclass

from rlhf_plugins import RewardLoss, hookimpl


@dataclass(frozen=True)
class Mine(RewardLoss):
    \"\"\"Mine.\"\"\"


@hookimpl
def register_reward_loss():
    return {"mine": Mine}
"""


def loss(**options: Any) -> dict[str, Any]:
    return {**RECIPE, "stages": [{"stage": "make", "loss": options}]}


def test_a_mapping_resolves_as_the_file_does(write: Write, registry: Registry) -> None:
    by_file = check_recipe(write(yaml.safe_dump(RECIPE)), ["seed=3"], registry)
    assert check_recipe(RECIPE, ["seed=3"], registry) == by_file


def test_it_takes_tuples_and_paths_and_is_not_changed(registry: Registry) -> None:
    given = {**RECIPE, "stages": ({"stage": "make"},), "output_dir": Path("here")}
    assert check_recipe(given, ["stages.0.flag=x"], registry)["output_dir"] == "here"
    assert given["stages"] == ({"stage": "make"},)


FAULTS = [
    ({**RECIPE, "sede": 1}, r"^recipe: sede: unknown option \(did you mean seed\?"),
    (loss(use="scaled", scale=-1), r"^recipe: stages\.0\.loss\.scale: should be greater than 0, got -1$"),
    (loss(use=object()), r"^recipe: stages\.0\.loss\.use: should be a plain value, got object$"),
    ({**RECIPE, "data": {1: 2}}, r"^recipe: data: a key should be text, got 1$"),
    ({}, r"^recipe: base: is required"),
]


@pytest.mark.parametrize(("recipe", "message"), FAULTS)
def test_a_fault_names_its_path(recipe: dict[str, Any], message: str, registry: Registry) -> None:
    with pytest.raises(RecipeError, match=message):
        check_recipe(recipe, registry=registry)


def test_a_component_in_its_place_is_refused_with_the_way_to_write_it(registry: Registry) -> None:
    made = component("reward_loss", "bradley_terry")
    with pytest.raises(RecipeError, match=r"got BradleyTerry; write its name, or \{'use': name, ...\}"):
        check_recipe(loss(use=made), registry=registry)


def test_a_mapping_that_holds_itself_is_refused(registry: Registry) -> None:
    recipe: dict[str, Any] = {**RECIPE}
    recipe["data"] = recipe
    with pytest.raises(RecipeError, match="nested too deeply"):
        check_recipe(recipe, registry=registry)


def test_its_plugins_are_relative_to_the_working_directory(write: Write, registry: Registry) -> None:
    write(OWN, "own.py")
    resolved = check_recipe({**loss(use="mine"), "plugins": ["own.py"]}, registry=registry)
    assert resolved["plugins"] == [str(Path("own.py").resolve())]


def test_it_runs(write: Write, registry: Registry) -> None:
    write()
    made = run(load_recipe({**RECIPE, "stages": ["talk"]}, registry=registry), say=lambda _: None)
    assert open_run(made.folder).status == "finished"
    assert made.folder == Path("runs/recipe")


def test_the_digest_is_of_the_meaning(write: Write, registry: Registry) -> None:
    def digest(recipe: Any) -> str:
        return recipe_digest(recipe, registry)

    plain = digest(loss(use="scaled"))
    assert len(plain) == 16
    same = [loss(use="scaled", scale=1), {**loss(scale="1.0", use="scaled"), "output_dir": "x", "seed": 0}]
    assert {digest(recipe) for recipe in [*same, write(yaml.safe_dump(loss(use="scaled")))]} == {plain}
    others = [loss(use="scaled", scale=2), {**loss(use="scaled"), "seed": 1}, {**RECIPE, "stages": ["make"]}]
    assert len({digest(recipe) for recipe in others} | {plain}) == 4


def test_a_file_of_components_counts_by_its_content(write: Write, registry: Registry) -> None:
    def digest(name: str, text: str) -> str:
        write(text, name)
        return recipe_digest({**loss(use="mine"), "plugins": [name]}, registry)

    assert digest("a.py", OWN) == digest("b.py", OWN) != digest("c.py", OWN + "# changed\n")


def test_a_file_that_a_recipe_names_counts_by_its_content_too(tmp_path: Path) -> None:
    (rows := tmp_path / "rows.jsonl").write_text('{"prompt": "one"}')
    (code := tmp_path / "mine.py").write_text("def f(completions): ...")
    online = {"stage": "online", "reward": {"use": "python", "path": f"{code}:f"}}

    def digest() -> str:
        data = {"format": "prompts", "source": str(rows)}
        return recipe_digest({"base": "sandbox", "data": data, "stages": [online]})

    first = digest()
    rows.write_text('{"prompt": "two"}')
    second = digest()
    code.write_text("def f(completions): return None")
    assert len({first, second, digest()}) == 3


def test_a_recipe_that_names_no_file_has_the_digest_of_its_values_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that exist are found again by it. A text that is a slash is no folder to be read whole."""
    monkeypatch.setattr("rlhf_plugins.data.digests.of_path", lambda path: pytest.fail(f"reads {path}"))
    stage = {"stage": "preference", "trainer": {"run_name": "/"}}
    recipe = {"base": "sandbox", "data": {"format": "sandbox"}, "stages": [stage]}
    values = check_recipe(recipe)
    del values["output_dir"]
    whole = json.loads(json.dumps(values), parse_float=lambda text: int(f) if (f := float(text)).is_integer() else f)
    assert recipe_digest(recipe) == sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def test_a_component_is_made_by_its_name() -> None:
    inner = component("reward_loss", "bradley_terry")
    assert isinstance(inner, RewardLoss)
    by_spec = component("reward_loss", "weighted", loss={"use": "bradley_terry"})
    assert component("reward_loss", "weighted", loss=inner) == component("reward_loss", "weighted") == by_spec


def test_a_misspelt_component_or_option_is_refused_with_the_nearest() -> None:
    with pytest.raises(PluginError, match=r"unknown reward_loss 'bradley_tery' \(did you mean bradley_terry\?"):
        component("reward_loss", "bradley_tery")
    with pytest.raises(PluginError, match=r"reward_loss.gama: unknown option"):
        component("reward_loss", "bradley_terry", gama=2)
