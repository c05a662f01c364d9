"""The registry knows where each name comes from, and refuses what is broken with both sides named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, version
from pathlib import Path
from types import ModuleType

import pytest

from rlhf_plugins import Component, PluginError, Pooling, RewardLoss, hookimpl
from rlhf_plugins.registry import discovery
from rlhf_plugins.registry.registry import KINDS, Plugin, Registry, registry

ONE = Plugin("one", "package-one", "1.0")
TWO = Plugin("two", "package-two", "2.0")


@dataclass(frozen=True)
class Loss(RewardLoss):
    scale: float = 1.0


@dataclass(frozen=True)
class Other(RewardLoss): ...


@dataclass(frozen=True)
class Mean(Pooling): ...


class Tone(Component, kind="tone"): ...


@dataclass(frozen=True)
class Warm(Tone): ...


class Pace(Component, kind="pace"): ...


@dataclass(frozen=True)
class Slow(Pace): ...


@dataclass
class Thawed(RewardLoss): ...


class Bare: ...


def module(hook: Callable[[], object], name: str = "register_reward_loss", marked: bool = True) -> ModuleType:
    """A plugin module with one hook."""
    made = ModuleType("made")
    setattr(made, name, hookimpl(hook) if marked else hook)
    return made


def holding(names: object) -> ModuleType:
    """A plugin module whose hook returns `names`."""
    return module(lambda: names)


def both() -> ModuleType:
    """A plugin module that registers one name through two hooks."""
    made = holding({"loss": Loss})
    vars(made)["register_components"] = hookimpl(lambda: {"reward_loss": {"loss": Loss}})
    return made


def test_a_component_is_found_by_name_and_by_class() -> None:
    made = Registry()
    made.register(holding({"loss": Loss}), ONE)
    made.register(holding({"other": Other}), TWO)
    assert made.names("reward_loss") == ["loss", "other"]
    assert made.get("reward_loss", "loss") is Loss
    assert made.find(Other).plugin == TWO
    assert [(c.kind, c.name, str(c.plugin)) for c in made.describe()] == [
        ("reward_loss", "loss", "one (package-one 1.0)"),
        ("reward_loss", "other", "two (package-two 2.0)"),
    ]


def test_two_kinds_may_share_a_name() -> None:
    made = Registry()
    made.register(holding({"plain": Loss}), ONE)
    made.register(module(lambda: {"plain": Mean}, "register_pooling"), TWO)
    assert (made.get("reward_loss", "plain"), made.get("pooling", "plain")) == (Loss, Mean)


def test_a_name_registered_twice_names_both_plugins() -> None:
    made = Registry()
    made.register(holding({"loss": Loss}), ONE)
    message = r"reward_loss 'loss' is registered twice: by one \(package-one 1.0\) and by two \(package-two 2.0\)"
    with pytest.raises(PluginError, match=message):
        made.register(holding({"loss": Other}), TWO)


def test_an_unknown_name_kind_or_class_is_explained() -> None:
    made = Registry()
    made.register(holding({"loss": Loss}), ONE)
    with pytest.raises(PluginError, match=r"unknown reward_loss 'los' \(did you mean loss\? known: loss\)"):
        made.get("reward_loss", "los")
    with pytest.raises(PluginError, match=r"unknown component kind 'reward_los' \(did you mean reward_loss\?"):
        made.names("reward_los")
    with pytest.raises(PluginError, match="Other is not a registered component"):
        made.find(Other)


def test_an_unknown_hook_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        PluginError, match=r"one \(package-one 1.0\).*register_reward_los.*did you mean register_reward_loss"
    ):
        Registry().register(module(lambda: {}, "register_reward_los"), ONE)


def test_a_hook_without_the_decorator_is_refused() -> None:
    with pytest.raises(PluginError, match="register_reward_loss lacks the decorator @hookimpl"):
        Registry().register(module(lambda: {}, marked=False), ONE)


def fails() -> object:
    raise RuntimeError("no such file")


@dataclass(frozen=True)
class Astray(RewardLoss, like="los"): ...


BROKEN = [
    (module(fails), "register_reward_loss raised RuntimeError: no such file"),
    (holding(["loss"]), "register_reward_loss returned list, not a dict"),
    (holding({"loss": Bare}), "expected a dataclass, got <class .*Bare"),
    (holding({"loss": Loss()}), r"expected a dataclass, got .*Loss\(scale=1.0\)"),
    (holding({"loss": Thawed}), "Thawed must be a frozen dataclass"),
    (holding({"Loss": Loss}), "'Loss': a name is lower-case letters, digits and underscores"),
    (holding({"my-loss": Loss}), "a name is lower-case letters"),
    (holding({3: Loss}), "a name is lower-case letters"),
    (holding({"loss": Astray}), r"like='los' is no field"),
    (module(lambda: {"Tone": Tone}, "register_kind"), "'Tone' cannot name a kind"),
    (module(lambda: {"components": Tone}, "register_kind"), "'components' cannot name a kind"),
    (both(), "reward_loss 'loss' is registered twice by this plugin"),
]


@pytest.mark.parametrize(("plugin", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_a_broken_plugin_is_refused_by_name(plugin: ModuleType, message: str) -> None:
    with pytest.raises(PluginError, match=rf"plugin one \(package-one 1.0\).*{message}"):
        Registry().register(plugin, ONE)


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Registry]:
    """Loads a new registry with given entry points."""

    def load(*points: EntryPoint) -> Registry:
        monkeypatch.setattr(discovery, "entry_points", lambda group: points)
        return registry.__wrapped__()

    return load


def test_an_entry_point_that_is_no_plugin_adds_nothing(entries: Callable[..., Registry]) -> None:
    assert entries(EntryPoint("json", "json", "rlhf_plugins")).describe() == entries().describe()


def test_the_built_in_components_come_through_the_hooks(entries: Callable[..., Registry]) -> None:
    found = entries()
    assert {component.kind for component in found.describe()} == set(KINDS)
    assert {component.plugin.version for component in found.describe()} == {version("rlhf-plugins")}
    assert str(found.find(found.get("advantage", "gae")).plugin).startswith("components.advantage (rlhf-plugins ")


def test_a_hook_that_asks_for_what_it_is_not_given_is_broken_and_harms_no_other() -> None:
    made, odd = Registry(), module(lambda x: {})
    with pytest.raises(PluginError, match="plugin one .*declared in the hookimpl"):
        made.register(odd, ONE)
    made.register(holding({"loss": Loss}), ONE)
    assert made.names("reward_loss") == ["loss"]


def test_a_kind_may_be_defined_by_a_plugin_that_is_found_later() -> None:
    """Each of the two defines a kind, and has a component of the other's."""
    mutual = module(lambda: {"tone": Tone}, "register_kind")
    vars(mutual)["register_components"] = hookimpl(lambda: {"pace": {"slow": Slow}})
    other = module(lambda: {"tone": {"warm": Warm}}, "register_components")
    third = module(lambda: {"pace": Pace}, "register_kind")
    found = [
        discovery.Found(Plugin(name, name, "1"), name, lambda made=made: made)  # type: ignore[misc]
        for name, made in [("other", other), ("mutual", mutual), ("third", third)]
    ]
    made = Registry().admit(found)
    assert (made.unloaded, made.names("tone"), made.names("pace")) == ([], ["warm"], ["slow"])


def test_a_plugin_that_exits_is_broken_and_harms_no_other() -> None:
    def leave() -> ModuleType:
        raise SystemExit(0)

    made = Registry().admit([discovery.Found(ONE, "one", leave)])
    assert [str(left.plugin) for left in made.unloaded] == ["one (package-one 1.0)"]
    with pytest.raises(PluginError, match="register_reward_loss raised SystemExit"):
        made.register(module(lambda: leave()), TWO)


def test_a_list_of_disabled_plugins_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe")
    monkeypatch.setattr(discovery, "disabled_file", lambda: tmp_path / "list.txt")
    with pytest.raises(PluginError, match="list.txt: the list of disabled plugins cannot be read"):
        discovery.disabled()
