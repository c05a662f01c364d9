"""`kl: none`: no reference is loaded, computed or counted, and the weights are those of a coefficient of 0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from handed import folder_of
from marks import slow
from safetensors.torch import load_file

from rlhf_plugins import Adapter, PluginError, RecipeError, Run, RunError, StageResult, check_recipe, session
from rlhf_plugins.contract.run import Base, Weights
from rlhf_plugins.data.file_names import KL
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.run.stage.starts import at, in_words
from rlhf_plugins.stages import online
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run
from rlhf_plugins.trainers.ppo.models import Models

FEW = {"max_steps": 4, "learning_rate": 1e-2, "logging_steps": 1, "disable_tqdm": True}
ROLLOUT = {"per_device_train_batch_size": 8, "num_generations": 4, "num_iterations": 2, "max_completion_length": 6}
NO_KL = {"kl": "none"}


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    base = replace(tiny_base(tmp_path / "base"), adapter=getattr(request, "param", Adapter(r=4)))
    return session(base, tiny_run(base, tmp_path / "rows", tiny_pairs(16)).data, tmp_path / "run")


def trained(run: Run, name: str, **options: Any) -> StageResult:
    words = {"use": "online", "reward": "gold", **options, "trainer": {**FEW, **ROLLOUT, **options.get("trainer", {})}}
    return run.train(words, name=name)


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("a reference")


@pytest.mark.parametrize("run", [Adapter(r=4), None], ids=["lora", "full"], indirect=True)
@pytest.mark.parametrize("advantage", ["gae", *slow("dr_grpo")])
def test_weights_and_curves_are_those_of_a_coefficient_of_0(
    run: Run, advantage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.train({"use": "sft", "trainer": FEW}, name="sft")
    parts = {"from": "sft", "advantage": advantage}
    zero = trained(run, "zero", kl={"coef": 0.0}, **parts)
    monkeypatch.setattr(Models, "reference_log_probs", refuse)
    monkeypatch.setattr(online, "_reference", refuse)
    none = trained(run, "none", **NO_KL, **parts)
    weights = [load_file(next(folder_of(found.policies).glob("*model.safetensors"))) for found in (zero, none)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    assert zero.curves.keys() - none.curves.keys() == {"kl", "kl_coef"}
    for name in ("reward", "loss", "grad_norm", "entropy"):
        assert none.curves[name].points == zero.curves[name].points, name
    assert [(run.folder / name / KL).exists() for name in ("zero", "none")] == [True, False]
    assert zero.cost.flops > none.cost.flops
    assert [(found.start, found.reference) for found in (zero, none)] == [("sft", "sft"), ("sft", "")]


def test_held_out_numbers_are_without_it(run: Run) -> None:
    evaluated = {"trainer": {"eval_strategy": "steps", "eval_steps": 2}}
    found = trained(run, "none", **NO_KL, **evaluated)
    measured = {name for name in found.curves if name.startswith("eval_")}
    assert measured == {"eval_reward", "eval_gold_reward", "eval_length"}
    best = {**evaluated["trainer"], "load_best_model_at_end": True, "metric_for_best_model": "kl"}
    with pytest.raises(RunError, match="metric_for_best_model"):
        trained(run, "best", **NO_KL, trainer=best)


def test_a_forecast_holds_no_reference() -> None:
    works, models = {}, {}
    for kl in ("none", "in_reward"):
        found = component("stage", {"use": "online", "reward": "model", "kl": kl}).workload(None)
        works[kl], models[kl] = {work.phase for work in found.works}, found.models
    assert works["in_reward"] - works["none"] == {"reference"}
    assert models == {"none": 1, "in_reward": 2}


def test_what_needs_a_kl_is_refused(run: Run) -> None:
    with pytest.raises(PluginError, match="reference: base, but with `kl: none` nothing reads it; leave it out"):
        component("stage", {"use": "online", "reward": "gold", **NO_KL, "reference": "base"})
    stage: Any = component("stage", {"use": "online", "reward": "gold", **NO_KL})
    with pytest.raises(ValueError, match="carry: kl: the stage has `kl: none`; leave it out"):
        stage.keeping({"kl"})
    assert stage.keeping({"value"}) is stage


def test_the_default_monitors_are_those_that_have_something_to_watch() -> None:
    def checked(**words: Any) -> dict[str, Any]:
        stages = [{"stage": "online", "reward": "gold", **NO_KL, **words}]
        return check_recipe({"base": "sandbox", "data": "sandbox", "output_dir": "out", "stages": stages})

    found = checked()
    names = [one["use"] for one in found["stages"][0]["monitors"]]
    assert names == ["equal_rewards", "entropy_floor", "value_divergence"]
    assert check_recipe(found) == found
    with pytest.raises(RecipeError, match="monitor kl_limit watches kl, and stage online has `kl: none`, so that it"):
        checked(monitors=["kl_limit"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"use": "online"}, "from base, reference base"),
        ({"use": "online", **NO_KL}, "from base"),
        ({"use": "preference"}, "from base, reference base"),
        ({"use": "preference", "loss": "sft"}, "from base"),
    ],
)
def test_the_first_line_of_a_stage_names_a_reference_that_it_reads(words: dict[str, Any], said: str) -> None:
    assert in_words(component("stage", words), at(Weights("base", Base("b")))) == said
