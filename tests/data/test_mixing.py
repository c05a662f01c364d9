"""Several sets as one: how often a row is there, what is held out, and what does not go together."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.contract.run import Base, Run
from rlhf_plugins.contract.run_kinds import DataFormat
from rlhf_plugins.data.changes.mixing import HELD_OUT, OF_RECIPE, mixed, without_held_out
from rlhf_plugins.errors import DataError, PluginError, RecipeError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.recipe.check import check_recipe
from rlhf_plugins.run.stage.own_rows import own_data, trained_before
from rlhf_plugins.run.stage.stage_run import Services
from rlhf_plugins.testing import tiny_run


def data(*prompts: str, test: tuple[str, ...] = ()) -> Data:
    train, held = (tuple(Group(p, ("a", "b"), (0, 1)) for p in names) for names in (prompts, test))
    return Data(train, held, {"train": tuple(map(Group, prompts)), "test": tuple(map(Group, test))})


def test_a_weight_is_how_often_a_row_is_there() -> None:
    found = mixed([data("p", "q"), data("r", "s", "t", "u")], [2.5, 0.5], seed=0)
    count = Counter(str(group.prompt) for group in found.train)
    assert sorted(count[name] for name in "pq") == [2, 3]
    assert sorted(count[name] for name in "rstu") == [0, 0, 1, 1]
    assert Counter(str(group.prompt) for group in found.prompts["train"]) == count
    again = mixed([data("p", "q"), data("u", "t", "s", "r")], [2.5, 0.5], seed=0)  # in another order
    assert Counter(str(group.prompt) for group in again.train) == count


def prompts(*train: str, test: tuple[str, ...] = ()) -> Data:
    """Prompts alone."""
    return Data((), (), {"train": tuple(map(Group, train)), "test": tuple(map(Group, test))}, {"empty": 2})


def test_prompts_alone_are_held_out_and_counted_as_rows_are() -> None:
    found = mixed([prompts("p", test=("q",)), prompts("q", "r")], [1, 1], seed=0)
    assert [group.prompt for group in found.prompts["train"]] == ["p", "r"]
    assert found.dropped == {"empty": 4, HELD_OUT: 1}
    own = without_held_out(prompts("q", "r"), prompts("p", test=("q",)))
    assert ([group.prompt for group in own.prompts["train"]], own.dropped) == (["r"], {"empty": 2, OF_RECIPE: 1})


def test_the_truth_of_a_mixture_is_known_where_the_parts_have_one() -> None:
    first, second = (lambda prompt, response: {"total": 0.0} for _ in range(2))
    parts = [replace(data("p"), gold=first), replace(data("q"), gold=first), replace(data("r"), gold=second)]
    assert (mixed(parts[:2], [1, 1], 0).gold, mixed(parts, [1, 1, 1], 0).gold) == (first, None)


def test_what_one_part_holds_out_is_trained_on_in_none() -> None:
    found = mixed([data("p", test=("q",)), data("q", "r")], [1, 1], seed=0)
    assert [group.prompt for group in found.train] == ["p", "r"]
    assert ([group.prompt for group in found.test], found.dropped) == (["q"], {HELD_OUT: 1})


def test_case_and_space_make_no_other_prompt_of_one_that_is_held_out(tmp_path: Path) -> None:
    found = mixed([data("p", test=("Why so?",)), data("why  so?", "WHY SO", "r")], [1, 1], seed=0)
    assert [group.prompt for group in found.train] == ["p", "WHY SO", "r"]
    assert found.dropped == {HELD_OUT: 1}
    own = without_held_out(data("why  so?", "r", test=("s",)), data("p", test=("Why so?",)))
    assert ([group.prompt for group in own.train], dict(own.dropped)) == (["r"], {OF_RECIPE: 1})


def test_a_stage_trains_on_no_prompt_that_the_recipes_data_hold_out() -> None:
    own = without_held_out(data("p", "q", "r", test=("s",)), data("p", test=("q",)))
    assert [group.prompt for group in own.train] == [group.prompt for group in own.prompts["train"]] == ["p", "r"]
    assert dict(own.dropped) == {OF_RECIPE: 1}
    with pytest.raises(DataError, match="the recipe's data hold out every prompt"):
        without_held_out(data("q"), data("p", test=("q",)))


class Own(DataFormat):
    """Rows of a stage's own."""

    def load_in(self, run: Run) -> Data:
        return data("p", "q", test=("r", "s"))


@pytest.mark.parametrize(("stage", "trained"), [("reward_model", 1), ("evaluate_reward", 2)])
def test_only_a_stage_that_trains_loses_rows_of_its_own(stage: str, trained: int, tmp_path: Path) -> None:
    run = replace(tiny_run(Base("none"), tmp_path), data=data("p", test=("q",)))
    assert len(own_data(run, component("stage", stage), Own()).train) == trained


@pytest.mark.parametrize("use", ["evaluate", "evaluate_reward"])
def test_held_out_prompts_that_others_train_on_are_counted(use: str, tmp_path: Path) -> None:
    """By the recipe's data, and by a stage with rows of its own."""
    run = replace(tiny_run(Base("none"), tmp_path / "01-rm"), data=data("r"), services=Services(root=tmp_path))
    own_data(run, component("stage", "reward_model"), Own())
    stage = replace(component("stage", use), data=Own())
    given = replace(run, data=data(test=("r", "p", "q")))
    words = ["1 of its 3 {} the recipe's data train on", "2 of its 3 {} the stage rm learned from"]
    assert trained_before(run, stage, given) == [each.format("held-out prompts are among those that") for each in words]
    assert trained_before(run, component("stage", use), given) == []


def test_text_and_conversations_do_not_mix() -> None:
    chat = Data((Group([{"role": "user", "content": "p"}], ([], [])),))
    with pytest.raises(DataError, match="part 0 is text and part 1 is messages"):
        mixed([data("p"), chat], [1, 1], seed=0)
    with pytest.raises(DataError, match="every prompt is held out in another part"):
        mixed([data("p", test=("q",)), data("q", test=("p",))], [1, 1], seed=0)


def words(folder: Path, **more: Any) -> dict[str, Any]:
    parts = []
    for name in "ab":
        rows = [{"prompt": f"{name}{n}", "chosen": "x", "rejected": "y"} for n in range(10)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        parts.append({"format": "preference", "source": str(folder / f"{name}.jsonl")})
    return {"use": "mix", "parts": parts, **more}


def test_the_weight_of_a_part_is_written_beside_the_parts() -> None:
    data = {"format": "mix", "parts": [{"format": "sandbox", "weight": 2}, "sandbox"]}
    with pytest.raises(RecipeError, match=r"data\.parts\.0\.weight: unknown option \(did you mean weights\?"):
        check_recipe({"base": "sandbox", "data": data, "stages": [{"stage": "sft"}]})


def test_a_recipe_mixes_files(tmp_path: Path) -> None:
    made = component("data_format", words(tmp_path, weights=[2, 1]))
    found = made.load(Base(""), 0)
    assert Counter(str(group.prompt)[0] for group in found.train) == {"a": 16, "b": 8}
    assert (len(found.test), made.known_columns(), made.known_gold()) == (4, {"ranks"}, False)
    with pytest.raises(PluginError, match="weights: 1 numbers for 2 parts"):
        component("data_format", words(tmp_path, weights=[2]))
