"""Each component of a file is tried with those of the given options that it has."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf_plugins.errors import PluginError
from rlhf_plugins.testing import subjects_in
from rlhf_plugins.testing.conformance import subjects_of

TWO = """
from dataclasses import dataclass
from rlhf_plugins import KL, Reduction, hookimpl
@dataclass(frozen=True)
class One(KL):
    per_word: float = 1.0
@dataclass(frozen=True)
class Other(Reduction):
    weight: float = 1.0
@hookimpl
def register_kl():
    return {"one_of_two": One}
@hookimpl
def register_reduction():
    return {"other_of_two": Other}
"""


def test_an_option_goes_to_the_component_that_has_it(tmp_path: Path) -> None:
    (file := tmp_path / "two.py").write_text(TWO)
    assert {one.name: one.options for one in subjects_in(file, {"weight": 2})} == {
        "one_of_two": {},
        "other_of_two": {"weight": 2},
    }
    with pytest.raises(PluginError, match=r"no component has the option 'wait' \(did you mean weight\?"):
        subjects_in(file, {"wait": 2})


def test_components_of_a_package_are_tried_with_the_options_of_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.rlhf_plugins.options."preference_loss.dpo"]\nbeta = 0.3\n')
    origin = json.dumps({"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    monkeypatch.setattr(metadata, "distribution", lambda _: SimpleNamespace(read_text=lambda _: origin))

    def dpo(**given: object) -> object:
        return next(one.options for one in subjects_of("rlhf-plugins", given) if one.name == "dpo")

    assert (dpo(), dpo(beta=0.5), subjects_of("nobody", {"x": 1})) == ({"beta": 0.3}, {"beta": 0.5}, [])
    with pytest.raises(PluginError, match=r"no component has the option 'betta' \(did you mean beta\?"):
        dpo(betta=1)


PART = """
from dataclasses import dataclass
from rlhf_plugins import Component, KL, hookimpl, uses
class Rule(Component, kind="rule"): ...
@dataclass(frozen=True)
class Asking(Rule):
    path: str
@dataclass(frozen=True)
class Silent(Rule): ...
@dataclass(frozen=True)
class Ruled(KL):
    rule: Rule = uses("rule")
@hookimpl
def register_kind():
    return {"rule": Rule}
@hookimpl
def register_components():
    return {"rule": {"asking": Asking, "silent": Silent}}
@hookimpl
def register_kl():
    return {"ruled": Ruled}
"""


def test_a_part_is_made_up_of_what_asks_for_no_option(tmp_path: Path) -> None:
    (file := tmp_path / "part.py").write_text(PART)
    required = {one.name: one.required for one in subjects_in(file, {"path": "a"})}
    assert required == {"asking": {"path": "a"}, "silent": {}, "ruled": {"rule": "silent"}}
