"""Names become objects, and objects their names again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stubs import Decay, Make, Plain, Rows, Scaled

from rlhf_plugins import Adapter, Base, PluginError
from rlhf_plugins.recipe.assemble import assemble, component, spec
from rlhf_plugins.recipe.provenance import plugins
from rlhf_plugins.registry.registry import Registry

Checked = Callable[..., dict[str, Any]]
specs = st.recursive(
    st.just({"use": "plain"}),
    lambda inner: st.fixed_dictionaries(
        {"use": st.just("scaled"), "scale": st.floats(14, 20), "steps": st.lists(st.integers()), "inner": inner}
    ),
)


def test_a_recipe_becomes_objects(checked: Checked, registry: Registry) -> None:
    text = "base: sandbox\nquantization: nf4\nadapter: {r: 4}\ndata: rows\nseed: 5\n"
    text += "stages: [{stage: make, loss: {use: scaled, steps: [3]}, decay: {rate: 1}}]\n"
    made = assemble(checked(text), registry)
    assert made.base.quantization == "nf4"
    assert made.base.adapter == Adapter(r=4)
    assert made.data == Rows(2)
    assert made.stages == (Make(loss=Scaled(steps=(3,), inner=Plain()), decay=Decay(1.0)),)
    assert (made.seed, made.output_dir) == (5, Path("runs/recipe"))


def test_the_sandbox_is_the_folder_of_its_policy(checked: Checked, registry: Registry) -> None:
    from rlhf_plugins.sandbox import POLICY

    text = "base: sandbox\nadapter: none\ndata: rows\nstages: [make]\n"
    assert assemble(checked(text), registry).base == Base(str(POLICY), None, None, False)


@given(specs)
def test_spec_is_the_inverse_of_component(registry: Registry, words: dict[str, Any]) -> None:
    made = component("reward_loss", words, registry)
    assert spec(made, registry) == words
    assert component("reward_loss", spec(made, registry), registry) == made


def test_a_component_may_be_given_by_name_alone(registry: Registry) -> None:
    assert component("reward_loss", "scaled", registry) == Scaled(inner=Plain())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"use": "plan"}, r"unknown reward_loss 'plan' \(did you mean plain\?"),
        ({"use": "scaled", "scale": -1}, r"reward_loss.scale: should be greater than 0"),
        ({"use": "plain", "x": 1}, r"reward_loss.x: unknown option"),
        ({}, r"needs `use: <name of a reward_loss>`"),
    ],
)
def test_a_wrong_spec_is_explained(words: dict[str, Any], message: str, registry: Registry) -> None:
    with pytest.raises(PluginError, match=message):
        component("reward_loss", words, registry)


def test_the_plugins_of_a_recipe_are_named_once(checked: Checked, registry: Registry) -> None:
    made = assemble(checked(), registry)
    assert [str(plugin) for plugin in plugins((made.data, *made.stages), registry)] == ["stubs (stub-package 1.0)"]
