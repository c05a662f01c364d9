"""Hints for unknown options: what to write for those of other tools, or of the top of a recipe."""

from __future__ import annotations

BASE = "write `base: FOLDER_OR_HUB_NAME` at the top of the recipe"
LORA = "write `adapter: {r: 16}` at the top of the recipe"
ROWS = "write `data: {format: preference, source: FILE_OR_HUB_NAME}` at the top of the recipe"
OTHERS = {  # an option of TRL's scripts and other trainers -> what does it here
    "attn_implementation": "is chosen by the engine, which tries what it takes on the device: leave it out",
    "batch_size": "write `trainer: {per_device_train_batch_size: 8}` in the stage",
    "dataset_name": ROWS,
    "hub_token": "is a secret, which a report would show; log in with `hf auth login` or set HF_TOKEN",
    "load_in_4bit": "write `quantization: nf4` at the top of the recipe",
    "load_in_8bit": "write `quantization: int8` at the top of the recipe",
    "lora_r": LORA,
    "lora_rank": LORA,
    "lora_target_modules": "write `adapter: {target_modules: [q_proj, v_proj]}` at the top of the recipe",
    "lr": "write `trainer: {learning_rate: 1.0e-5}` in the stage",
    "max_seq_length": "write `max_length: 1024` at the top of the recipe",
    "model_name_or_path": BASE,
    "num_epochs": "write `trainer: {num_train_epochs: 1}` in the stage",
    "use_lora": LORA,
    "use_peft": LORA,
    "warmup_ratio": "write `trainer: {warmup_steps: 0.1}` in the stage, where a number below 1 is a share of the steps",
}


def in_a_stage(name: str) -> str:
    """What to write for an option that a stage or its `trainer` has not; empty for a word that nothing else has."""
    from rlhf_plugins.contract.run import Adapter
    from rlhf_plugins.recipe.options import options
    from rlhf_plugins.recipe.schema import Recipe

    if name in OTHERS:
        return OTHERS[name]
    if name in options(Recipe):
        return f"write `{name}:` at the top of the recipe"
    if name in options(Adapter).keys() - {"r"}:  # too short a word to be sure of
        return f"write `adapter: {{{name}: ...}}` at the top of the recipe"
    return ""
