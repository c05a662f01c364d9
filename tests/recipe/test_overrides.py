"""An override changes the value that it names, and a fault of it points at the command line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from marks import slow

from rlhf_plugins import check_recipe, with_overrides
from rlhf_plugins.errors import RecipeError
from rlhf_plugins.recipe.overrides import parsed

Checked = Callable[..., dict[str, Any]]
TEXT = "base: sandbox\ndata: rows\nstages:\n- {stage: make, name: first, loss: scaled}\n- make\n- judge\n"

GOOD = [
    ("seed=7", lambda r: r["seed"], 7),
    ("adapter=none", lambda r: r["adapter"], None),
    ("adapter.r=8", lambda r: r["adapter"]["r"], 8),
    ("data.rows=5", lambda r: r["data"]["rows"], 5),
    ("data={format: rows, rows: 1}", lambda r: r["data"]["rows"], 1),
    ("stages.0.loss.scale=1e-3", lambda r: r["stages"][0]["loss"]["scale"], 1e-3),
    ("stages.first.loss=plain", lambda r: r["stages"][0]["loss"], {"use": "plain"}),
    ("stages.first.trainer.max_steps=3", lambda r: r["stages"][0]["trainer"], {"max_steps": 3}),
    ("stages.make.flag=x", lambda r: r["stages"][1]["flag"], "x"),  # the computed name
    ("stages.judge.name=j", lambda r: r["stages"][2]["name"], "j"),
    ("output_dir=runs/a#b", lambda r: r["output_dir"], "runs/a#b"),
    ("output_dir='a #b' ", lambda r: r["output_dir"], "a #b"),
    ("output_dir='010'", lambda r: r["output_dir"], "010"),
    ("seed=0", lambda r: r["seed"], 0),
    ("output_dir=a=b", lambda r: r["output_dir"], "a=b"),
]


@pytest.mark.parametrize(("override", "where", "value"), GOOD, ids=[case[0] for case in GOOD])
def test_an_override_reaches_its_value(
    override: str, where: Callable[[Any], object], value: object, checked: Checked
) -> None:
    assert where(checked(TEXT, override)) == value


def test_later_overrides_win(checked: Checked) -> None:
    assert checked(TEXT, "seed=1", "seed=2")["seed"] == 2


MAPPING = "should be a mapping of options or `none`"
BAD = [
    ("seed", "seed: an override is written key=value"),
    ("=3", ": an override is written key=value"),
    ("a..b=3", "a..b: an override is written key=value"),
    ("seed=[1", "seed: '[1' is not a YAML value"),
    ("seed=x", "seed: should be a valid integer"),
    ("sed=1", "sed: unknown option (did you mean seed?"),
    ("seed.x=1", "seed: should be a valid integer"),
    ("base.x=1", "base: should be a valid string"),
    ("stages.3.name=x", "stages.3.name: stages has 3 elements, numbered from 0"),
    ("stages.frist.name=x", "stages.frist.name: no stage 'frist' (did you mean first?"),
    ("stages.first.trainer.max_step=1", "stages.0.trainer.max_step: unknown option of trl.RewardConfig"),
    ("stages.0.loss.steps.one=1", "stages.0.loss.steps: should be a valid tuple"),
    ("stages.make.flagg=1", "stages.1.flagg: unknown option"),
    ("adapter=4", f"adapter: {MAPPING}, got 4; write adapter.r=4"),
    ("adapter=qlora", f"adapter: {MAPPING}, got text; write for example adapter.r=16"),
    ("checkpoint=1 steps", f"checkpoint: {MAPPING}, got text; write checkpoint.every='1 steps'"),
    ("checkpoint=often", f"checkpoint: {MAPPING}, got text; write for example checkpoint.every='5 min'"),
    ("adapter.rr=1", "adapter.rr: unknown option"),
    ("base=You are #1", "base: YAML reads '#1' as a comment: write the whole value in quotes"),
    ("base=#1", "base: YAML reads '#1' as a comment"),
    ("adapter={r: 4, r: 8}", "adapter: key 'r' is written twice"),
    ("data={format: rows, own: [{r: 4, r: 8}]}", "data: key 'r' is written twice"),
    ("adapter={<<: {r: 4}}", "adapter: merge keys (<<) are not supported"),
    ("seed=010", "seed: YAML reads 010 as 8"),
    ("seed=-1:30", "seed: YAML reads -1:30 as -90"),
]


@pytest.mark.parametrize(("override", "message"), BAD, ids=[case[0] for case in BAD])
def test_a_fault_of_an_override_says_so(override: str, message: str, checked: Checked) -> None:
    with pytest.raises(RecipeError) as caught:
        checked(TEXT, "adapter.r=2", override)
    (fault,) = caught.value.faults
    assert str(fault).startswith(f"{override} (command line): ")
    assert f"{fault.path}: {fault.message}".startswith(message)


def test_a_kind_that_two_stages_share_names_neither(checked: Checked) -> None:
    text = "base: sandbox\ndata: rows\nstages: [{stage: make, name: a}, {stage: make, name: b}]\n"
    with pytest.raises(RecipeError, match=r"several stages are 'make'; say which by name \(known: a, b\)"):
        checked(text, "stages.make.flag=x")


def test_a_stage_with_a_fault_is_found_by_its_name(checked: Checked) -> None:
    text = "base: sandbox\ndata: rows\nstages: [{stage: make, name: a, loss: plane}]\n"
    with pytest.raises(RecipeError) as caught:
        checked(text, "stages.a.flag=x")
    assert [fault.message for fault in caught.value.faults] == [
        "unknown reward_loss 'plane' (did you mean plain? known: plain, scaled)"
    ]


@pytest.mark.parametrize("written", ["[", "2020-13-45", *slow("[" * 2000)])
def test_what_is_no_yaml_value_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="is not a YAML value"):
        parsed(f"a.b={written}")


def test_the_data_of_a_stage_as_a_bare_name_gets_room_for_options() -> None:
    recipe = {"base": "sandbox", "data": "sandbox", "stages": [{"stage": "preference", "data": "sandbox"}]}
    assert check_recipe(recipe, ["stages.0.data.prompts=7"])["stages"][0]["data"]["prompts"] == 7


OWN: dict[str, Any] = {
    "start": [{"stage": "reward_model"}, {"stage": "online", "name": "ppo", "kl": "k3"}],
    "tasks": {"t": {"data": "sandbox", "seeds": [1, 2]}},
}


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("start.reward_model.share=0.5", {"stage": "reward_model", "share": 0.5}),
        ("start.ppo.trainer.max_steps=3", {**OWN["start"][1], "trainer": {"max_steps": 3}}),
        ("start.online.kl.coef=1e-1", {**OWN["start"][1], "kl": {"use": "k3", "coef": "1e-1"}}),
        ("tasks.t.data.prompts=3", {"data": {"format": "sandbox", "prompts": 3}, "seeds": [1, 2]}),
        ("tasks.t.seeds.1=7", {"data": "sandbox", "seeds": [1, 7]}),
    ],
)
def test_overrides_lead_into_a_packages_own_values_as_into_a_recipe(override: str, value: object) -> None:
    before = copy.deepcopy(OWN)
    changed = with_overrides(OWN, [override])
    assert value in (*changed["start"], *changed["tasks"].values())
    assert before == OWN


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["start.pop.share=1"], "start.pop.share: no stage 'pop' (did you mean ppo?"),
        (["tasks.t.seeds.first=1"], "tasks.t.seeds.first: 'first' should be the number of an element, from 0 to 1"),
        (["tasks.t.seeds.0.a=1"], "tasks.t.seeds.0.a: tasks.t.seeds.0 is 1 and has no options"),
        (["start=[1"], "start: '[1' is not a YAML value"),
        (["start.0.a=1", "start.reward_model.a=2"], "start.0.a: changes nothing, since a later one sets the same"),
        (["start.0.a=1", "start=[]"], "start.0.a: changes nothing, since a later one sets the same"),
    ],
)
def test_an_override_of_a_packages_own_values_that_changes_nothing_is_refused(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        with_overrides(OWN, overrides)
    (fault,) = caught.value.faults
    assert str(fault).startswith(f"{overrides[0]} (command line): {message}")


def test_two_places_of_one_object_are_two_values() -> None:
    shared = {"a": 1}
    assert with_overrides({"one": shared, "two": shared}, ["one.a=2"]) == {"one": {"a": 2}, "two": {"a": 1}}
