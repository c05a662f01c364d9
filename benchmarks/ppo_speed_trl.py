"""One timed run of PPO with TRL 1.12, the last release that had it; `ppo_speed.py` starts it where that is installed.

    python benchmarks/ppo_speed_trl.py FOLDER '{"adapter": false, "batches": 5, ...}'

The last line that it prints is what it measured, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer  # type: ignore[import-not-found, unused-ignore]


class Watch(TrainerCallback):
    """When each batch of episodes was done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called after a batch has been sampled and trained on for all epochs."""
        self.times.append(time.perf_counter())


def main() -> None:
    """Trains and prints the seconds of each batch but the first, the peak of memory and the work that was done."""
    folder, options = sys.argv[1], json.loads(sys.argv[2])
    tokenizer = AutoTokenizer.from_pretrained(folder + "/base", padding_side="left")
    prompts = json.loads(Path(folder, "prompts.json").read_text())
    watch, before = Watch(), peak()
    trainer = PPOTrainer(
        config(folder, options),
        tokenizer,
        model=AutoModelForCausalLM.from_pretrained(folder + "/base", dtype=torch.float32),
        ref_model=None,  # a copy, or the policy without its adapter
        reward_model=classifier(folder + "/reward"),
        train_dataset=Dataset.from_list([dict(tokenizer(prompt)) for prompt in prompts]),
        value_model=classifier(folder + "/reward"),
        callbacks=[watch],
        peft_config=adapter(options) if options["adapter"] else None,
    )
    updates = [0]
    register_optimizer_step_post_hook(lambda *_: updates.append(1))
    trainer.train()
    seconds = [after - start for start, after in zip(watch.times, watch.times[1:], strict=False)]
    print(json.dumps({"seconds": seconds, "peak": peak(), "before": before, "updates": sum(updates)}))


def config(folder: str, options: dict[str, Any]) -> PPOConfig:
    """The same sizes, epochs and coefficients as the other side's, on a CPU in float32."""
    return PPOConfig(
        output_dir=folder + "/trl",
        per_device_train_batch_size=options["part"],
        gradient_accumulation_steps=options["batch"] // options["part"],
        total_episodes=options["batch"] * options["batches"],
        num_ppo_epochs=options["epochs"],
        response_length=options["response"],
        num_mini_batches=1,
        num_sample_generations=0,
        temperature=1.0,
        learning_rate=options["learning_rate"],
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=options["seed"],
    )


def classifier(path: str) -> Any:
    """The reward model, which also is what the value starts from."""
    return AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=torch.float32)


def adapter(options: dict[str, Any]) -> Any:
    """LoRA on every linear layer of the policy; the value model is trained in full, as TRL has it."""
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", r=options["rank"], lora_alpha=32, target_modules="all-linear")


def peak() -> int:
    """Bytes of the process's largest resident set so far, as Linux has it; `resource` would begin at its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


if __name__ == "__main__":
    main()
