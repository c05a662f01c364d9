"""A training under DeepSpeed's ZeRO-1 and ZeRO-2, whose optimizer each process holds a part of.

It knows transformers' Trainer and DeepSpeed's engine, no loss.
"""

from __future__ import annotations

from typing import Any

from transformers.integrations.deepspeed import propagate_args_to_deepspeed

from rlhf_plugins.contract import processes
from rlhf_plugins.errors import RunError

AS_IN_RECIPE = {"gradient_accumulation_steps": "gradient_accumulation_steps", "gradient_clipping": "max_grad_norm"}


def hand_options_on(trainer: Any) -> None:
    """Gives DeepSpeed a trainer's options, which transformers does at once, unless DeepSpeed is hidden."""
    if processes.divides_optimizer() and trainer.is_deepspeed_enabled:
        propagate_args_to_deepspeed(trainer.accelerator, trainer.args)


def refuse_untried(trainer: Any, quantized: bool, keeps: bool) -> None:
    """Raises RunError for what was not tried under ZeRO, and where accelerate leaves DeepSpeed out.

    Args:
        trainer: that is about to train.
        quantized: whether its base is.
        keeps: whether checkpoints are written.
    """
    if not trainer.is_deepspeed_enabled:
        raise RunError(
            "the launch asks for DeepSpeed, and accelerate leaves it out here, so that each process would train with "
            "a whole optimizer; write `distributed_type: MULTI_GPU`"
        )
    args = trainer.args
    untried = {
        "quantization": (quantized, "leave it out"),
        "checkpoint": (keeps, "write `checkpoint: none`"),
        "regularizers": (bool(getattr(trainer, "regularizers", {})), "leave them out"),
        "trainer.load_best_model_at_end": (args.load_best_model_at_end, "leave it out"),
        "precompute_ref_log_probs: false": (not getattr(args, "precompute_ref_log_probs", True), "leave it out"),
        "trainer.bf16, trainer.fp16": (args.bf16 or args.fp16, "write `trainer: {bf16: false}`"),
    }
    for name, (asked, instead) in untried.items():
        if asked:
            raise RunError(f"{name}: was not tried under DeepSpeed: {instead}, or launch with DDP")
    config = trainer.accelerator.state.deepspeed_plugin.deepspeed_config
    for name, own in AS_IN_RECIPE.items():
        if config.get(name, "auto") not in ("auto", getattr(args, own)):
            raise RunError(
                f"deepspeed_config: {name}: {config[name]}, and the recipe trains with trainer.{own}: "
                f"{getattr(args, own)}: leave it out of deepspeed_config"
            )
