"""Every option that TRL adds to TrainingArguments is read by the stage that takes it, or refused."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import transformers
import trl

from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.stages import preference, reward_model, sft
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

COMMON = {"activation_offloading", "dataset_num_proc", "max_length"}
ROWS = {"pad_token", "pad_to_multiple_of", "padding_free", "packing"}
READ = {
    trl.DPOConfig: COMMON | {"disable_dropout", "precompute_ref_log_probs", "truncation_mode"},
    trl.RewardConfig: COMMON | {"disable_dropout"},
    trl.SFTConfig: COMMON
    | ROWS
    | {"completion_only_loss", "dataset_kwargs", "loss_type"}
    | {"packing_strategy", "router_aux_loss_coef", "shuffle_dataset", "truncation_mode"},
}
UNREAD = {trl.DPOConfig: preference.UNREAD, trl.RewardConfig: reward_model.UNREAD, trl.SFTConfig: sft.UNREAD}
FEW = {"max_steps": 3, "learning_rate": 1e-2, "logging_steps": 1, "disable_tqdm": True}


@pytest.mark.parametrize("config", READ)
def test_every_option_of_trl_is_read_or_refused(config: type) -> None:
    own = {field.name for field in fields(config)} - {f.name for f in fields(transformers.TrainingArguments)}
    assert own - UNREAD[config] == READ[config]


def test_preference_training_honours_the_adapters_dropout(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    stage = component("stage", {"use": "preference", "trainer": FEW})
    adapters = {rate: Adapter(r=4, lora_dropout=rate) for rate in (0.0, 0.5)}
    found = [
        stage.run(tiny_run(replace(base, adapter=adapter), tmp_path / f"{rate}" / "run", tiny_pairs(16), ()))
        for rate, adapter in adapters.items()
    ]
    first, second = ([value for _, value in result.curves["loss"].points] for result in found)
    assert first[0] == pytest.approx(second[0], abs=1e-5)  # log 2: an untrained adapter changes nothing
    assert first[1:] != second[1:]


STAGES = [{"use": "preference"}, {"use": "online", "advantage": "rloo", "reward": {"use": "length"}}]


@pytest.mark.parametrize("words", STAGES, ids=["preference", "online"])
def test_a_mixture_of_experts_is_trained_without_its_auxiliary_loss(tmp_path: Path, words: dict[str, Any]) -> None:
    """Its configuration names a coefficient, which TRL reads where nothing else is said."""
    base = tiny_base(tmp_path / "base", "mixtral", num_local_experts=4, num_experts_per_tok=2, sliding_window=None)
    sizes = {"max_completion_length": 4, "num_generations": 2} if words["use"] == "online" else {}
    stage = component("stage", {**words, "trainer": {**FEW, "max_steps": 1, **sizes}})
    found = stage.run(tiny_run(replace(base, adapter=Adapter(r=2)), tmp_path / "run", tiny_pairs(16), ()))
    assert found.policies.keys() == {words["use"]}
