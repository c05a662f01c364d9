"""A plugin that is broken, disabled or for another API adds nothing, harms no other, and is named where missed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from rlhf_plugins import PluginError
from rlhf_plugins.registry import discovery
from rlhf_plugins.registry.registry import Registry, registry

LOSS = """\
from dataclasses import dataclass
from rlhf_plugins import RewardLoss, hookimpl
{top}

@dataclass(frozen=True)
class Loss(RewardLoss):
    scale: float = 1.0

@hookimpl
def register_reward_loss():
    return {{"{name}": Loss}}
"""

Load = Callable[..., Registry]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """A new registry, with plugins of which the sources are given by name; nothing is disabled."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(discovery.DISABLED, raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    def made(**sources: str) -> Registry:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
            monkeypatch.delitem(sys.modules, name, raising=False)
        points = [EntryPoint(name, name, "rlhf_plugins") for name in sources]
        monkeypatch.setattr(discovery, "entry_points", lambda group: points)
        return registry.__wrapped__()

    return made


def loss(name: str, top: str = "") -> str:
    return LOSS.format(name=name, top=top)


BROKEN = [
    ("import no_such_module", "cannot be imported from 'bad': ModuleNotFoundError: No module named 'no_such_module'"),
    ("1 / 0", "cannot be imported from 'bad': ZeroDivisionError: division by zero"),
    ("def (", "cannot be imported from 'bad': SyntaxError"),
    ("rlhf_plugins_api = 3", "was written for API 3 of plugins, and rlhf-plugins .* has API 2: upgrade rlhf-plugins"),
    ("rlhf_plugins_api = 1", "was written for API 1 of plugins.*: upgrade unknown"),
    ("rlhf_plugins_api = '1'", "rlhf_plugins_api should be a whole number, got '1'"),
]


@pytest.mark.parametrize(("top", "reason"), BROKEN, ids=[top for top, _ in BROKEN])
def test_a_broken_plugin_leaves_the_others_and_is_named_where_it_is_missed(top: str, reason: str, load: Load) -> None:
    found = load(bad=loss("mine", top), good=loss("yours"))
    assert "yours" in found.names("reward_loss")
    assert "bradley_terry" in found.names("reward_loss")
    with pytest.raises(PluginError, match=rf"unknown reward_loss 'mine' .*not loaded: bad .* is broken: {reason}"):
        found.get("reward_loss", "mine")


def test_a_plugin_of_our_api_loads(load: Load) -> None:
    assert load(good=loss("mine", "rlhf_plugins_api = 2")).unloaded == []


def test_a_name_of_ours_that_another_takes_is_nobodys(load: Load) -> None:
    found = load(thief=loss("bradley_terry"))
    by = r"by components.reward_loss \(rlhf-plugins .*\) and by thief \(.*`rlhf plugins disable thief`"
    with pytest.raises(PluginError, match=f"'bradley_terry' is registered twice: {by}"):
        found.get("reward_loss", "bradley_terry")
    assert "bradley_terry" not in found.names("reward_loss")


def test_a_disabled_plugin_is_not_imported(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(discovery.DISABLED, "other,mine")
    found = load(mine=loss("mine", "1 / 0"))
    reason = r"mine \(unknown unknown\) is disabled: by RLHF_PLUGINS_DISABLED; `rlhf plugins enable mine` lets it load"
    with pytest.raises(PluginError, match=reason):
        found.get("reward_loss", "mine")
    assert "mine" not in sys.modules


def test_a_plugin_can_be_disabled_and_enabled_again(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    discovery_names = ["mine", "yours"]
    load()
    discovery.disable("mine", discovery_names)
    assert [str(each.plugin.name) for each in load(mine=loss("mine")).unloaded] == ["mine"]
    discovery.enable("mine", discovery_names)
    assert load(mine=loss("mine")).unloaded == []
    with pytest.raises(PluginError, match=r"unknown plugin 'min' \(did you mean mine\?"):
        discovery.disable("min", discovery_names)
    monkeypatch.setenv(discovery.DISABLED, "mine")
    with pytest.raises(PluginError, match="'mine' is still disabled by the environment variable RLHF_PLUGINS_DISABLED"):
        discovery.enable("mine", discovery_names)


def test_our_own_plugins_have_no_privilege(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(discovery.DISABLED, "components.sampler")
    found = load()
    assert found.names("sampler") == []
    assert "bradley_terry" in found.names("reward_loss")


def test_two_plugins_of_one_name_are_told_apart(tmp_path: Path) -> None:
    found = Registry().admit(2 * [discovery.in_file(_written(tmp_path / "one.py", loss("mine")))])
    assert [each.reason for each in found.unloaded] == ["another plugin is called 'one.py' too"]


def test_a_file_is_a_plugin_whose_version_is_its_content(tmp_path: Path) -> None:
    file = _written(tmp_path / "mine.py", loss("mine"))
    found = Registry().with_files([file])
    plugin = found.find(found.get("reward_loss", "mine")).plugin
    assert (plugin.name, plugin.distribution) == ("mine.py", "file")
    assert plugin.version.startswith("sha256:")
    again = Registry().with_files([file])
    assert again.get("reward_loss", "mine") is found.get("reward_loss", "mine")
    _written(file, loss("mine", "# changed"))
    changed = Registry().with_files([file])
    assert changed.find(changed.get("reward_loss", "mine")).plugin.version != plugin.version


def test_a_file_that_is_not_there_or_no_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="gone.py' cannot be read: No such file"):
        Registry().with_files([tmp_path / "gone.py"])
    with pytest.raises(PluginError, match=r"plugin bad.py \(file sha256:.*\) cannot be imported .*SyntaxError"):
        Registry().with_files([_written(tmp_path / "bad.py", "def (")])


def test_files_add_to_a_registry_and_leave_it_as_it_was(tmp_path: Path) -> None:
    whole = registry()
    more = whole.with_files([_written(tmp_path / "mine.py", loss("mine"))])
    assert {*more.names("reward_loss")} - {*whole.names("reward_loss")} == {"mine"}
    assert "mine.py" not in {plugin.name for plugin in whole.plugins}
    assert whole.with_files([]) is whole


def _written(file: Path, source: str) -> Path:
    file.write_text(source)
    return file
