"""Every option that TRL adds to TrainingArguments is read by the stage that takes it, or refused."""

from __future__ import annotations

from dataclasses import fields

import pytest
import transformers
import trl

from rlhf_plugins.stages import preference, reward, sft

COMMON = {"activation_offloading", "dataset_num_proc", "max_length"}
ROWS = {"chat_template_path", "eos_token", "pad_token", "pad_to_multiple_of", "padding_free", "packing"}
READ = {
    trl.DPOConfig: COMMON
    | {"disable_dropout", "precompute_ref_log_probs", "ref_model_mixup_alpha", "ref_model_sync_steps"}
    | {"sync_ref_model", "truncation_mode"},
    trl.RewardConfig: COMMON | {"disable_dropout"},
    trl.SFTConfig: COMMON
    | ROWS
    | {"assistant_only_loss", "completion_only_loss", "dataset_kwargs", "dataset_text_field", "loss_type"}
    | {"packing_strategy", "router_aux_loss_coef", "shuffle_dataset", "truncation_mode"},
}
UNREAD = {trl.DPOConfig: preference.UNREAD, trl.RewardConfig: reward.UNREAD, trl.SFTConfig: sft.UNREAD}


@pytest.mark.parametrize("config", READ)
def test_every_option_of_trl_is_read_or_refused(config: type) -> None:
    own = {field.name for field in fields(config)} - {f.name for f in fields(transformers.TrainingArguments)}
    assert own - UNREAD[config] == READ[config]
