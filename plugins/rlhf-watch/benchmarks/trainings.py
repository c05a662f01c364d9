"""Real trainings of the sandbox's policy that trained_alarms.py measures: clean ones of three kinds, and hacked ones.

A run trains one reward model and then policies against it, each from the base: three if clean, one if hacked. The
annotators of clean runs judge by the true worth. Those of hacked runs like every word, or dislike it, and then no KL
holds the policy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlhf_plugins import open_run, run_recipe

HERE = Path(__file__).resolve().parent
FLAWS: dict[str, dict[str, Any]] = {
    "longer words": {"length_bias": 0.15},
    "fewer words": {"length_bias": -0.15},
}
ROLLOUTS = 40
MONITORS = ["length_drift", "repetition", "entropy_collapse", "reward_variance_collapse", "disagreement"]
MONITORS += ["feature_drift", "boilerplate"]
TRAINER = {
    "learning_rate": 2e-3,
    "per_device_train_batch_size": 32,
    "num_generations": 4,
    "steps_per_generation": 1,
    "num_iterations": 2,
    "max_completion_length": 48,
    "max_steps": 2 * ROLLOUTS,
    "logging_steps": 2,
}
CLEAN: dict[str, dict[str, Any]] = {
    "improves": {"kl": {"coef": 0.2}},
    "plateaus": {"kl": {"coef": 1.0}},
    "curriculum": {"kl": {"coef": 0.2}, "trainer": {**TRAINER, "shuffle_dataset": False}},
}
HACKED: dict[str, dict[str, Any]] = {"once": {"kl": {"coef": 0.0}}}


def trained(folder: Path, seed: int, flaw: str | None = None) -> Path:
    """A run of one reward model and its policies, finished before or now."""
    if not (folder / "status.json").exists() or open_run(folder).status != "finished":
        run_recipe({**recipe(flaw), "seed": seed, "output_dir": str(folder)}, overwrite=folder.exists())
    return folder


def recipe(flaw: str | None) -> dict[str, Any]:
    """Of a clean run, or of one whose annotators have a flaw."""
    annotator = {} if flaw is None else FLAWS[flaw]
    rows = {"use": "sandbox", "prompts": 320, "test_prompts": 16, "responses": 2, "pairs": 1, "annotator": annotator}
    reward = {
        "stage": "reward_model",
        "head": {"use": "ensemble", "head": "scalar", "members": 4},
        "trainer": {
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 32,
            "num_train_epochs": 2,
            "warmup_steps": 2,
        },
    }
    policies = [
        {"stage": "online", "name": name, "from": "base", "trainer": TRAINER, **given}
        for name, given in (CLEAN if flaw is None else HACKED).items()
    ]
    for each in policies:
        each["monitors"] = [*MONITORS, "reward_gap", "recorded"]
    return {
        "base": "sandbox",
        "plugins": [str(HERE / "recorded.py")],
        "adapter": {"r": 16, "lora_alpha": 32, "target_modules": ["o_proj", "down_proj"]},
        "data": {"format": "easy_first", "rows": rows},
        "stages": [reward, *policies],
    }


def rollouts(folder: Path, policy: str) -> list[dict[str, Any]]:
    """What was recorded of a policy's training, a row for each rollout."""
    (file,) = folder.glob(f"*-{policy}/rollouts.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
