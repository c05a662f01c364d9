"""Members of an ensemble that differ in base, pooling, head and loss: a decoder and an encoder score as one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from handed import folder_of
from torch.testing import assert_close

from rlhf_plugins import PluginError, RunError
from rlhf_plugins.contract.run import Base, StageResult
from rlhf_plugins.engine.cost import counting
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.opening import open_reward, pair_accuracy
from rlhf_plugins.stages.reward_ensemble import out_of_bag
from rlhf_plugins.stages.reward_model import member_seed
from rlhf_plugins.testing import tiny_base, tiny_encoder, tiny_pairs, tiny_run

FEW = {"max_steps": 6, "learning_rate": 1e-2, "disable_tqdm": True}


def trained(base: Base, folder: Path, *models: dict[str, Any], **options: Any) -> StageResult:
    words = [{"stage": "reward_model", **model} for model in models]
    stage = component("stage", {"use": "reward_ensemble", "models": words, "trainer": FEW, **options})
    result: StageResult = stage.run(tiny_run(base, folder, tiny_pairs(24)))
    return result


def test_a_decoder_and_an_encoder_are_averaged(tmp_path: Path) -> None:
    base, encoder = tiny_base(tmp_path / "base"), tiny_encoder(tmp_path / "encoder")
    other = {"base": encoder.path, "pooling": "mean", "head": "mlp", "loss": "margin", "trainer": {"max_steps": 4}}
    result = trained(base, tmp_path / "run", {}, other, aggregation={"use": "fixed", "weights": [0.75, 0.25]})
    folder = folder_of(result.rewards)
    whole, first, second = (open_reward(each, component) for each in (folder, folder / "0", folder / "1"))
    prompts, answers = ["how is\n"] * 2, ["ant bee cat", "mud gas"]
    found = whole(whole.encode(prompts, answers))
    apart = [handle(handle.encode(prompts, answers)).reward for handle in (first, second)]
    assert_close(found.reward, 0.75 * apart[0] + 0.25 * apart[1])
    assert len(result.metrics["out_of_bag_accuracy"]) == 2


def test_a_reward_model_on_another_base_reads_what_the_policy_wrote(tmp_path: Path) -> None:
    base, encoder = tiny_base(tmp_path / "base"), tiny_encoder(tmp_path / "encoder")
    words = {"base": encoder.path, "pooling": "mean", "trainer": {**FEW, "max_steps": 2}}
    result = component("stage", {"use": "reward_model", **words}).run(tiny_run(base, tmp_path / "run", tiny_pairs(24)))
    run, alone = (tiny_run(each, tmp_path / "run", tiny_pairs(24), [result]) for each in (base, encoder))
    reward = component("reward", "model").build(run)
    samples = run.policy().sample(run.data.test[:4], 2, temperature=1.0, max_new_tokens=6, seed=0)
    assert_close(reward(samples).reward, reward(reward.encode(samples.prompts, samples.responses)).reward)
    with pytest.raises(RunError, match="no single reward model with the same tokens"):
        reward.by_token(samples)
    measured = [component("stage", "evaluate_reward").run(each).report.reward_models for each in (run, alone)]
    for one in measured:
        del one["reward_model"]["latency"]
    assert measured[0] == measured[1]


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble of two members, weighed by topic."""
    folder = tmp_path_factory.mktemp("expert")
    groups = [replace(group, topic="ab"[i % 2]) for i, group in enumerate(tiny_pairs(24))]
    spec = {"use": "reward_ensemble", "members": 2, "aggregation": {"use": "expert", "alpha": 30.0}, "trainer": FEW}
    return folder_of(component("stage", spec).run(tiny_run(tiny_base(folder / "base"), folder / "run", groups)).rewards)


@pytest.mark.slow
def test_members_are_weighed_by_the_topic_of_a_response(expert: Path, tmp_path: Path) -> None:
    copytree(expert, tmp_path / "model")
    file = tmp_path / "model" / "reward_ensemble.json"
    said = json.loads(file.read_text())
    assert {*said["accuracy_by_topic"]} == {"a", "b"}
    file.write_text(json.dumps({**said, "accuracy_by_topic": {"a": [1.0, 0.0], "b": [0.0, 1.0]}}))
    handle = open_reward(file.parent, component)
    found = handle(replace(handle.encode(["how is\n"] * 2, ["ant bee"] * 2), columns={"topic": ["a", "b"]}))
    assert found.members is not None
    assert_close(found.reward, found.members.diagonal())


def test_an_ensemble_is_weighed_again_by_new_rows(expert: Path, tmp_path: Path) -> None:
    turned = [replace(group, responses=group.responses[::-1], topic="c") for group in tiny_pairs(20, seed=7)]
    stage = component("stage", {"use": "recalibrate", "path": str(expert)})
    result = stage.run(tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run", turned))
    members = [open_reward(expert / str(member), component) for member in range(2)]
    expected = [pair_accuracy(member, turned, member.encoder) for member in members if member.encoder]
    said = json.loads((folder_of(result.rewards) / "reward_ensemble.json").read_text())
    assert result.metrics["accuracy"] == said["accuracy"] == expected
    assert said["accuracy_by_topic"] == {"c": pytest.approx(expected)}
    assert open_reward(folder_of(result.rewards), component).function.accuracy == tuple(expected)
    assert [row["accuracy now"] for row in result.sections[0].rows] == [round(one or 0.0, 3) for one in expected]
    assert {row["prompts"] for row in result.sections[0].rows} == {len({group.prompt for group in turned})}
    assert "agreement before" in result.sections[0].rows[0]


def test_a_member_that_has_fallen_beyond_chance_is_named(expert: Path, tmp_path: Path) -> None:
    """Turned pairs are what the members were trained against: an accuracy of 0.9 on 400 prompts is gone."""
    copytree(expert, tmp_path / "model")
    file = tmp_path / "model" / "reward_ensemble.json"
    known = {"accuracy": [0.9, 0.1], "prompts": [400, 400], "agreement": {"shares": [0.0, 0.0], "prompts": 400}}
    file.write_text(json.dumps({**json.loads(file.read_text()), **known}))
    turned = [replace(group, responses=group.responses[::-1]) for group in tiny_pairs(20, seed=7)]
    stage = component("stage", {"use": "recalibrate", "path": str(file.parent)})
    said = stage.run(tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run", turned)).sections[0].text
    assert said.startswith("Member 0: its accuracy has fallen from 90.0% to ")
    assert "member 1" not in said
    assert said.endswith("the interval is wide).")


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ([{}, {}], {"members": 2}, "members: `models` says how many"),
        ([{}], {}, "models: at least 2"),
        ([{}, {"from": "base"}], {}, "models.1.from: all members share it"),
        ([{}, {}], {"base": "sandbox"}, "base: each of `models` has its own"),
    ],
)
def test_what_nothing_would_read_is_refused(models: list[Any], options: dict[str, Any], message: str) -> None:
    words = [{"stage": "reward_model", **model} for model in models]
    with pytest.raises(PluginError, match=message):
        component("stage", {"use": "reward_ensemble", "models": words, **options})


def test_a_part_that_each_member_has_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="head: each of `models` has its own"):
        trained(tiny_base(tmp_path / "base"), tmp_path / "run", {}, {}, head="mlp")


def test_no_member_has_the_seed_of_one_in_a_run_with_another_seed() -> None:
    assert len({member_seed(seed, member) for seed in range(10) for member in range(10)}) == 100
    assert [member_seed(7, None), member_seed(7, 0)] == [7, 7]


def test_what_measuring_the_members_costs_beside_their_budget_is_said(tmp_path: Path) -> None:
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run")
    spec = {"use": "reward_ensemble", "members": 2, "trainer": FEW}
    result = component("stage", {**spec, "budget": {"flops": 1e18}}).run(run)
    with counting() as counter:
        for member in range(2):
            handle = open_reward(folder_of(result.rewards) / str(member), component)
            drawn = np.random.default_rng([run.seed, member]).integers(16, size=16).tolist()
            for groups in (out_of_bag(run.data.train, drawn), run.data.test):
                pair_accuracy(handle, groups, handle.encoder)
    beside = result.metrics["beside_budget"]
    assert beside["flops"] == counter.flops > 0
    took = f"took {beside['flops']:.4g} FLOPs and {beside['seconds']:.4g} seconds"
    assert result.report.notes == [f"Measuring the members {took}, beside the budget of their trainings."]
    assert "beside_budget" not in component("stage", spec).run(replace(run, folder=tmp_path / "again")).metrics
