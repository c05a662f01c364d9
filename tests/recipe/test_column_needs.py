"""A component that needs a column of the data is refused before training, and by the check where the data is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import stubs

from rlhf_plugins import Base, Comparison, DataError, Group, PluginError, RecipeError, check_recipe, uses
from rlhf_plugins.data.columns import columns_of
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_run

PAIR = Group("how\n", ("ant", "gas"), (0, 1))
HEAD = "base: sandbox\nadapter: none\n"


@pytest.mark.parametrize(
    ("column", "groups"),
    [
        ("annotator", [replace(PAIR, ranks=None, compared=(Comparison(0, 1, annotator="ann"),))]),
        ("difficulty", [replace(PAIR, difficulty=value) for value in (1.0, 2.0)]),
        ("margin", [replace(PAIR, margin=0.5)]),
        ("probability", [replace(PAIR, ranks=None, compared=(Comparison(0, 1, probability=0.7),))]),
        ("ratings", [replace(PAIR, ratings={"kind": (None, 1.0)})]),
        ("ties", [replace(PAIR, ranks=(0, 0))]),
        ("topic", [replace(PAIR, topic=name) for name in "ab"]),
        ("votes", [replace(PAIR, ranks=None, compared=(Comparison(0, 1), Comparison(1, 0)))]),
        ("weight", [replace(PAIR, weight=0.5)]),
    ],
)
def test_a_column_is_there_if_it_can_change_a_training(column: str, groups: list[Group]) -> None:
    plain = [PAIR, replace(PAIR, margin=0.0, topic="a", difficulty=1.0), replace(PAIR, topic="a", difficulty=1.0)]
    assert columns_of(plain[1:]) == {"ranks"}
    assert columns_of([replace(PAIR, topic="a"), *(replace(g, topic=g.topic or "a") for g in groups)]) >= {column}


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            {"loss": "bradley_terry_margin"},
            r"reward_loss bradley_terry_margin needs the column 'margin'",
        ),
        ({"loss": "weighted"}, r"reward_loss weighted .*'weight'.*the rows have: ranks$"),
        ({"loss": {"use": "sum", "losses": ["weighted"], "weights": [1]}}, r"reward_loss weighted .*'weight'"),
        ({"loss": {"use": "group_dro", "loss": "regression"}}, r"reward_loss regression .*'ratings'"),
        ({"loss": "group_dro"}, r"reward_loss group_dro .*'topic'"),
        ({"sampler": "curriculum"}, r"sampler curriculum .*'difficulty'"),
        ({"sampler": "dynamic"}, r"sampler dynamic .*'topic'"),
    ],
)
@pytest.mark.parametrize("name", ["reward", "reward_ensemble"])
def test_a_stage_refuses_to_train_without_the_column(
    tmp_path: Path, name: str, stage: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        tiny_run(Base("none"), tmp_path, [PAIR]).train({"use": name, **stage}, name="refused")


@dataclass(frozen=True)
class Rates(stubs.Talk):
    inner: Any = uses("stage", "reward")


def test_a_stage_may_give_rows_of_its_own_to_the_stages_that_it_runs(tmp_path: Path) -> None:
    rates = Rates(inner=component("stage", {"use": "reward", "loss": "regression"}))
    assert tiny_run(Base("none"), tmp_path, [PAIR]).train(rates, name="rates").curves


@pytest.mark.parametrize(
    "stage",
    [
        {"loss": "regression", "teacher": "first"},  # rates every response
        {"loss": {"use": "multi_task", "dimensions": ["kind"], "losses": ["bradley_terry_margin"]}},  # ranks by ratings
        {"loss": {"use": "weighted", "by": "difficulty"}},
    ],
)
def test_a_loss_that_gets_what_it_needs_from_elsewhere_needs_nothing(stage: dict[str, Any]) -> None:
    assert component("stage", {"use": "reward", **stage}).needs_of() == frozenset()


def test_the_check_of_a_recipe_finds_it_in_the_sandbox(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    losses = "{use: sum, losses: [bradley_terry, weighted], weights: [1, 1]}"
    file.write_text(f"{HEAD}data: sandbox\nstages:\n  - stage: reward\n    loss: {losses}\n")
    with pytest.raises(RecipeError, match=r"recipe.yaml:6: .*losses\.1: .*weighted needs the column 'weight'"):
        check_recipe(file)
    file.write_text(f"{HEAD}data: sandbox\nstages:\n  - {{stage: reward, loss: bradley_terry_margin}}\n")
    assert check_recipe(file)


@pytest.mark.parametrize(("row", "found"), [('"margin": 2', True), ('"margin": null', False)])
def test_the_check_of_a_recipe_reads_a_local_file(tmp_path: Path, row: str, found: bool) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"prompt": "p", "chosen": "a", "rejected": "b", {row}}}\n')
    data = f"data: {{format: preference, source: {tmp_path}/rows.jsonl}}\n"
    (tmp_path / "recipe.yaml").write_text(f"{HEAD}{data}stages: [{{stage: reward, loss: bradley_terry_margin}}]\n")
    if found:
        assert check_recipe(tmp_path / "recipe.yaml")
        return
    with pytest.raises(RecipeError, match="needs the column 'margin', and no row has it"):
        check_recipe(tmp_path / "recipe.yaml")


def test_weights_by_accuracy_need_a_bootstrap() -> None:
    with pytest.raises(PluginError, match="needs each member's accuracy, which is measured on what its bootstrap left"):
        component("stage", {"use": "reward_ensemble", "aggregation": "weighted", "bootstrap": False})
    with pytest.raises(PluginError, match="needs each member's accuracy, which a head does not measure"):
        component("reward_head", {"use": "ensemble", "aggregation": "weighted"})
