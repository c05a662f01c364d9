"""A run and a saved model say which plugins they need; one that is missing is named, one that changed is warned of."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest

from rlhf_plugins import PluginError, RecipeError, load_reward_model, run_recipe
from rlhf_plugins.recipe.check import load_recipe, named_files
from rlhf_plugins.recipe.provenance import RECORD, changes
from rlhf_plugins.registry.discovery import OWN_FILE, Plugin
from rlhf_plugins.registry.registry import Registry, Unloaded, registry

Write = Callable[..., Path]

OURS = Plugin("stubs", "stub-package", "1.0")
LOSS = """\
from dataclasses import dataclass
from rlhf_plugins import RewardLoss, hookimpl

@dataclass(frozen=True)
class Gap(RewardLoss):
    scale: float = 1.0
    def __call__(self, scores):
        return (1 + self.scale * (scores.rejected - scores.chosen)).clamp(min=0)

@hookimpl
def register_reward_loss():
    return {"gap": Gap}
"""
OWN = """\
base: sandbox
plugins: [./my_loss.py]
data: {format: sandbox, prompts: 8, test_prompts: 8}
stages: [{stage: reward, loss: {use: gap, scale: 2}, train_layers: 0, trainer: {max_steps: 1}}]
adapter: none
"""


@pytest.fixture
def own(write: Write, tmp_path: Path) -> Path:
    """A recipe beside a loss of its own, in a folder that is not the working directory."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my_loss.py").write_text(LOSS)
    return write(OWN, "mine/recipe.yaml")


def test_a_plugin_of_the_same_version_is_no_news(registry: Registry) -> None:
    assert changes([OURS], registry, "the run") == []


def test_another_version_is_told(registry: Registry) -> None:
    messages = changes([Plugin("stubs", "stub-package", "0.9")], registry, "the run")
    assert messages == ["the run was made with stub-package 0.9; here it is 1.0"]


def test_a_plugin_that_moved_within_its_package_is_found(registry: Registry) -> None:
    assert changes([Plugin("old_name", "stub-package", "1.0")], registry, "the run") == []


MISSING = [
    (Plugin("focal", "rlhf-focal", "0.1.0"), r"not installed: `pip install rlhf-focal==0.1.0`"),
    (Plugin("mine.py", OWN_FILE, "sha256:1"), r"needs the file mine.py \(file sha256:1\); name it under `plugins:`"),
    (Plugin("off", "package", "1.0"), r"needs plugin off \(package 1.0\); off \(package 2.0\) is broken: no module"),
]


@pytest.mark.parametrize(("plugin", "message"), MISSING)
def test_a_missing_plugin_is_refused_with_the_cure(plugin: Plugin, message: str) -> None:
    made = Registry()
    made.unloaded.append(Unloaded(Plugin("off", "package", "2.0"), "broken", "no module"))
    with pytest.raises(PluginError, match=message):
        changes([plugin], made, "the run")


def test_a_recipe_may_name_a_file_of_components(own: Path) -> None:
    made = load_recipe(own)
    assert made.stages[0].loss.scale == 2  # type: ignore[attr-defined]
    assert made.resolved["plugins"] == [str(own.resolve().parent / "my_loss.py")]
    assert "gap" not in registry().names("reward_loss")


def test_a_file_that_is_no_plugin_is_a_fault_of_its_line(own: Path) -> None:
    (own.parent / "my_loss.py").write_text("def (")
    with pytest.raises(RecipeError, match=r"recipe.yaml:2: plugins.0: plugin my_loss.py .*SyntaxError"):
        load_recipe(own)
    (own.parent / "my_loss.py").write_text(LOSS)
    with pytest.raises(
        RecipeError, match=r"plugins=\[gone.py\] \(command line\): plugins.0: plugin '.*gone.py' cannot"
    ):
        load_recipe(own, ["plugins=[gone.py]"])
    with pytest.raises(RecipeError, match=r"No such file or directory \(did you mean my_loss.py\?\)"):
        load_recipe(own, ["plugins=[mine/my_los.py]"])


def test_a_plugin_of_the_command_line_is_relative_to_the_working_directory(own: Path) -> None:
    load_recipe(own, ["plugins=[mine/my_loss.py]"])
    assert named_files(own, ["plugins=[mine/my_loss.py]"]) == named_files(own) == [own.parent.resolve() / "my_loss.py"]
    with pytest.raises(RecipeError, match=r"plugin '.*/my_loss.py' cannot be read"):
        load_recipe(own, ["plugins=[my_loss.py]"])


def test_a_run_with_a_file_says_so_and_tells_when_it_changed(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = run_recipe(own, ["output_dir=out"])
    version = next(plugin.version for plugin in made.report.plugins if plugin.distribution == OWN_FILE)
    assert f"my_loss.py is a file that the recipe names, not a package: {version}." in made.report.notes
    (own.parent / "my_loss.py").write_text(f"{LOSS}# changed\n")
    run_recipe("out/recipe.yaml", resume=True)
    assert f"warning: the run was made with my_loss.py {version}; here it is sha256:" in capsys.readouterr().out


@pytest.mark.slow
def test_a_saved_model_names_the_plugin_that_is_missing(own: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_recipe(own, ["output_dir=out"])
    file = Path(copytree("out/01-reward/model", "copied/model")) / RECORD  # a run refuses files that changed
    record = json.loads(file.read_text())
    assert {"pooling last_token", "reward_head scalar", "reward_loss gap"} < set(record)
    record["reward_head scalar"]["version"] = "0.0.1"
    file.write_text(json.dumps(record))
    with caplog.at_level(logging.WARNING):
        load_reward_model(file.parent)
    assert "copied/model was made with rlhf-plugins 0.0.1; here it is" in caplog.text
    record["pooling last_token"] = vars(Plugin("pools", "rlhf-pools", "3.0"))
    file.write_text(json.dumps(record))
    with pytest.raises(PluginError, match=r"model needs plugin pools .*not installed: `pip install rlhf-pools==3.0`"):
        load_reward_model(file.parent)


def test_a_resume_without_a_plugin_names_it(own: Path) -> None:
    run_recipe(own, ["output_dir=out"])
    status = json.loads(Path("out/status.json").read_text())
    status["plugins"].append(vars(Plugin("gone", "rlhf-gone", "0.1.0")))
    Path("out/status.json").write_text(json.dumps(status))
    with pytest.raises(PluginError, match="the run needs plugin gone .*`pip install rlhf-gone==0.1.0`"):
        run_recipe("out/recipe.yaml", resume=True)
