"""Adapters with PEFT's options beyond a rank, in every stage: they train, reopen as they were, and leave the base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from rlhf_plugins import RecipeError, RunError, component, load_policy, session
from rlhf_plugins.contract.run import Adapter, Base, Run
from rlhf_plugins.data.digests import of_folder
from rlhf_plugins.engine.backbone import add_adapter
from rlhf_plugins.engine.mixture import mix
from rlhf_plugins.engine.policy import open_policy
from rlhf_plugins.engine.weights.loading import load_causal, lora_config, with_adapter
from rlhf_plugins.forecast.forecast import estimate
from rlhf_plugins.recipe.check import check_recipe
from rlhf_plugins.testing import tiny_base, tiny_run

FEW = {"max_steps": 2, "learning_rate": 1e-2, "logging_steps": 1, "disable_tqdm": True}
ROLLOUT = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6}
IDS = torch.tensor([[15, 16, 3, 4, 5, 1]])
RSLORA = Adapter(r=4, use_rslora=True, init_lora_weights="gaussian")
DORA = Adapter(r=4, use_dora=True)
EXCLUDES = Adapter(r=4, exclude_modules=["q_proj", "layers.1.mlp.down_proj"])
OPTIONS = pytest.mark.parametrize("adapter", [RSLORA, DORA, EXCLUDES], ids=["rslora", "dora", "excludes"])


def stage(use: str, **options: Any) -> Any:
    trainer = {**FEW, **(ROLLOUT if use == "online" else {})}
    return component("stage", use, trainer=trainer, **options)


def opened(adapter: Adapter, folder: Path) -> tuple[Base, Run]:
    base = replace(tiny_base(folder / "base"), adapter=adapter)
    data = tiny_run(base, folder / "rows").data
    return base, session(base, data, folder / "run")


def folder_of(result: Any) -> Path:
    (policy,) = result.policies.values()
    return Path(policy["path"])


@OPTIONS
def test_every_stage_goes_on_from_the_one_before(tmp_path: Path, adapter: Adapter) -> None:
    base, run = opened(adapter, tmp_path)
    before = of_folder(Path(base.path))
    run.train(stage("sft"), name="sft")
    run.train(stage("preference", reference="sft"), name="dpo", start="sft")
    run.train(stage("reward_model"), name="reward", start="dpo")
    online = stage("online", reward="model", advantage="gae", value={"network": "adapter"})
    found = run.train(online, name="ppo", start="dpo")
    folder = folder_of(found)
    there = AutoPeftModelForCausalLM.from_pretrained(folder)
    kept = there.peft_config["default"]
    assert {name: getattr(kept, name) for name in ("use_rslora", "use_dora")} == {
        name: getattr(adapter, name) for name in ("use_rslora", "use_dora")
    }
    tuned = {name for name, module in there.named_modules() if hasattr(module, "lora_A")}
    assert len(tuned) == (14 if adapter is not EXCLUDES else 14 - 2 - 1)  # of two layers with seven each
    merged = run.train(component("stage", "merge"), name="merge", start="ppo")
    whole = AutoModelForCausalLM.from_pretrained(folder_of(merged))
    plain = load_causal(replace(base, adapter=None))
    logits = [model.eval()(IDS).logits for model in (there, whole, plain)]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)
    assert (logits[0] - logits[2]).abs().max() > 1e-2
    handle = load_policy(folder)
    samples = handle.encode(["how\n"], ["ant bee"])
    ids = torch.tensor([[*samples.prompt_ids[0], *samples.response_ids[0]]])
    expected = there(ids).logits.log_softmax(-1)[0, len(samples.prompt_ids[0]) - 1 : -1]
    expected = expected.gather(1, torch.tensor(samples.response_ids[0]).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(handle.log_probs(samples)[0], expected, rtol=1e-4, atol=1e-4)
    assert of_folder(Path(base.path)) == before


@OPTIONS
def test_members_of_an_ensemble_score_as_they_did(tmp_path: Path, adapter: Adapter) -> None:
    run = opened(adapter, tmp_path)[1]
    run.train(component("stage", "reward_ensemble", members=2, trainer=FEW), name="ensemble")
    evaluated = run.train(component("stage", "evaluate_reward"), name="measured")
    assert evaluated.report.reward_models


def test_the_scale_by_hand(tmp_path: Path) -> None:
    """32 / sqrt(4); lora_alpha / r would be 8."""
    model = with_adapter(load_causal(tiny_base(tmp_path)), RSLORA, "CAUSAL_LM")
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == 16
    assert lora_config(RSLORA).init_lora_weights == "gaussian"


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "loftq", "eva", "corda", "orthogonal", False])
def test_what_does_not_start_as_the_base_is_refused(init: Any) -> None:
    with pytest.raises(ValueError, match=f"init_lora_weights: {init} changes the base's weights, starts from another"):
        Adapter(init_lora_weights=init)


@pytest.mark.parametrize("option", ["modules_to_save", "trainable_token_indices", "bias"])
def test_what_trains_the_weights_that_policies_share_is_refused_with_what_to_write(tmp_path: Path, option: str) -> None:
    with pytest.raises(
        RecipeError, match=rf"adapter.{option}: is refused: it trains .* of the .*, which policies here"
    ):
        check_recipe(recipe(tmp_path, adapter={option: ["lm_head"]}))


def test_adapters_of_dora_are_not_summed(tmp_path: Path) -> None:
    base, run = opened(DORA, tmp_path)
    saved = folder_of(run.train(stage("sft"), name="sft"))
    first = open_policy(saved, base)
    parts = first, open_policy(saved, base, backbone=first.backbone)
    with pytest.raises(RunError, match="what DoRA changes is no sum"):
        mix(dict(zip(parts, (0.5, 0.5), strict=True)), over="weights")


def recipe(folder: Path, **more: Any) -> dict[str, Any]:
    stages = [{"stage": "preference", "trainer": {"max_steps": 1}}]
    return {"base": tiny_base(folder / "base").path, "data": "sandbox", "stages": stages, **more}


def test_the_forecast_counts_what_dora_learns(tmp_path: Path) -> None:
    peaks = []
    for dora in (False, True):
        (found,) = estimate(recipe(tmp_path, adapter={"r": 4, "use_dora": dora})).stages
        peaks.append(sum(found.phases["train"].values()))
    assert peaks[0] < peaks[1]


@pytest.mark.parametrize("of_stage", [False, True])
def test_a_quantized_base_is_refused(tmp_path: Path, of_stage: bool) -> None:
    quantized = {"quantization": "nf4"}
    more = {"stages": [{"stage": "reward_model", **quantized}]} if of_stage else quantized
    with pytest.raises(RecipeError, match="adapter.use_dora: was not tried on a quantized base: leave it out, or"):
        check_recipe(recipe(tmp_path, adapter={"r": 4, "use_dora": True}, **more))


def test_a_script_is_refused_it_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="adapter.use_dora: was not tried on a quantized base"):
        Base("sandbox", "nf4", DORA)
    base = replace(tiny_base(tmp_path), adapter=Adapter(r=2))
    model = with_adapter(load_causal(base), base.adapter)
    model.get_base_model().config.quantization_config = {"load_in_4bit": True}
    with pytest.raises(RunError, match="use_dora: was not tried on a quantized base"):
        add_adapter(model, DORA)
