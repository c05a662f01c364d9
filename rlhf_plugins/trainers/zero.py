"""A training under DeepSpeed's ZeRO, of whose optimizer each process holds a part, under ZeRO-3 also of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import AutocastKwargs, send_to_device  # type: ignore[import-untyped]
from transformers.integrations.deepspeed import propagate_args_to_deepspeed, unset_hf_deepspeed_config

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.zero import OWN_ADAM, PERSISTING
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from pathlib import Path

DIVISION, PARTS = "division", "parts"  # keys of a state
OF_PART = "optimizer_state_dict"  # key of DeepSpeed's state, by which ZeRO-3 gives its optimizer the weights
WHOLE = "as a whole"


class HidesLaunch:
    """A Trainer that is built as without DeepSpeed and FSDP; it comes before the Trainer among a class's bases."""

    settled = False  # whether it is built, which says how it trains
    _deepspeed = _shards = False

    @property
    def is_deepspeed_enabled(self) -> bool:
        """Whether DeepSpeed trains; not while a stage's trainer is built, which places its models as without it."""
        return self._deepspeed and (self.settled or not processes.divides_optimizer())

    @is_deepspeed_enabled.setter
    def is_deepspeed_enabled(self, enabled: bool) -> None:
        self._deepspeed = enabled

    @property
    def is_fsdp_enabled(self) -> bool:
        """Whether weights are sharded; not while a stage's trainer is built, which reads and tries whole ones."""
        return self._shards and (self.settled or not processes.shards())

    @is_fsdp_enabled.setter
    def is_fsdp_enabled(self, shards: bool) -> None:
        self._shards = shards


class InBfloat16(AutocastKwargs):
    """Which precision accelerate's autocast has where DeepSpeed trains."""

    def to_kwargs(self) -> dict[str, Any]:
        """Options of torch.autocast."""
        return {**super().to_kwargs(), "dtype": torch.bfloat16}


def load_whole_models() -> None:
    """Has transformers load whole models again, where a configuration would have it load partitions of ZeRO-3.

    A model is tried, and a reference read, before DeepSpeed partitions it as a training begins.
    """
    if processes.zero3():
        unset_hf_deepspeed_config()


@contextmanager
def configuring(trainer: Any) -> Iterator[None]:
    """For the block, DeepSpeed is configured from a trainer's arguments, and in float32 where they say bfloat16.

    Its engine would round the weights themselves to bfloat16, those that are saved too; products are rounded under
    autocast, as without DeepSpeed.
    """
    args = trainer.args
    if processes.divides_optimizer():
        left_out = dict.fromkeys(processes.zero_left_out(), "auto")
        args.deepspeed_plugin.deepspeed_config |= {OWN_ADAM: False, **left_out}
    if processes.zero3():
        section, name = PERSISTING.split(".")
        args.deepspeed_plugin.deepspeed_config[section][name] = 0
    if not (processes.divides_optimizer() and args.bf16):
        yield
        load_whole_models()
        return
    args.deepspeed_plugin.deepspeed_config["bf16"] = {"enabled": False}
    args.bf16, args.mixed_precision = False, "no"
    try:
        yield
    finally:
        args.bf16, args.mixed_precision = True, "bf16"
        load_whole_models()
    trainer.accelerator.native_amp, trainer.accelerator.autocast_handler = True, InBfloat16()


def wrap(trainer: Any) -> None:
    """Has the model of a trainer that is about to train compute in its precision wherever it is called."""
    if trainer.accelerator.native_amp:
        trainer.accelerator.prepare_model(trainer.model, device_placement=False, evaluation_mode=True)


def hand_options_on(trainer: Any) -> None:
    """Gives DeepSpeed a trainer's options, which transformers does at once, unless DeepSpeed is hidden."""
    if processes.divides_optimizer() and trainer.is_deepspeed_enabled:
        with configuring(trainer):
            propagate_args_to_deepspeed(trainer.accelerator, trainer.args)


def state_in_parts(trainer: Any) -> dict[str, Any]:
    """The state of the part of each process of the optimizer, on the CPU, and how it is divided; all must call it."""
    own = trainer.optimizer.optimizer  # wrapped by accelerate; it has an optimizer of its part
    part = own.state_dict()[OF_PART] if processes.zero3() else own.optimizer.state_dict()
    return {DIVISION: _division(trainer), PARTS: processes.gathered(send_to_device(part, "cpu"))}


def load_part(trainer: Any, state: Mapping[str, Any]) -> None:
    """Gives the optimizer of this process the weights that the model has now, and the state of its part."""
    take_over_weights(trainer)
    own, part = trainer.optimizer.optimizer, state[PARTS][processes.index()]
    if processes.zero3():
        own.load_state_dict({processes.index(): {**own.state_dict(), OF_PART: part}})
    else:
        own.optimizer.load_state_dict(part)


def take_over_weights(trainer: Any) -> None:
    """Gives the optimizer of this process the weights that the model has now, where something else changed them."""
    if processes.divides_optimizer():
        trainer.optimizer.optimizer.refresh_fp32_params()


def refuse_other_division(trainer: Any, found: Path, state: Mapping[str, Any]) -> None:
    """Raises RunError where the optimizer whose state a checkpoint has was divided otherwise than this training's."""
    before, now = state.get(DIVISION), _division(trainer)
    if before != now:
        raise RunError(
            f"{found}: holds an optimizer {before or WHOLE}, and this launch has one {now or WHOLE}: launch as before, "
            "or delete it to train from the beginning"
        )


def _division(trainer: Any) -> str | None:
    if not processes.divides_optimizer():
        return None
    stage = trainer.accelerator.state.deepspeed_plugin.zero_stage
    return f"in {processes.count()} parts of ZeRO-{stage} by DeepSpeed {version('deepspeed')}"


def refuse_untried(trainer: Any, quantized: bool) -> None:
    """Raises RunError for what was not tried under ZeRO, and where accelerate leaves DeepSpeed out.

    Args:
        trainer: the trainer that is about to train.
        quantized: whether its base is.
    """
    if not trainer.is_deepspeed_enabled:
        raise RunError(
            "the launch asks for DeepSpeed, and accelerate leaves it out here, so that each process would train with "
            "a whole optimizer; write `distributed_type: MULTI_GPU`"
        )
    args, how = trainer.args, "under DeepSpeed"
    refuse_in_parts(trainer, quantized, how)
    if args.fp16:
        raise RunError(f"trainer.fp16: was not tried {how}: write `trainer: {{fp16: false}}`, or launch with DDP")
    plugin = trainer.accelerator.state.deepspeed_plugin
    for name, (words, value) in _of_recipe(args).items():
        if plugin.deepspeed_config.get(name, "auto") not in ("auto", value):
            raise RunError(
                f"deepspeed_config: {name}: {plugin.deepspeed_config[name]}, and the recipe trains with {words}: "
                f"{value}: leave it out of deepspeed_config, or write auto"
            )


def refuse_in_parts(trainer: Any, quantized: bool, how: str) -> None:
    """Raises RunError for what was not tried where each process holds a part of an optimizer or of weights.

    Args:
        trainer: the trainer that is about to train.
        quantized: whether its base is.
        how: parts are held, such as `under DeepSpeed`.
    """
    untried = {
        "quantization": quantized,
        "regularizers": bool(getattr(trainer, "regularizers", {})),
        "precompute_ref_log_probs: false": not getattr(trainer.args, "precompute_ref_log_probs", True),
    }
    for name, asked in untried.items():
        if asked:
            raise RunError(f"{name}: was not tried {how}: leave this out, or launch with DDP")


def _of_recipe(args: Any) -> dict[str, tuple[str, float]]:
    """What DeepSpeed's configuration may repeat: its name there -> the recipe's words for it, and its value."""
    rows, accumulated = args.per_device_train_batch_size, args.gradient_accumulation_steps
    return {
        "gradient_accumulation_steps": ("trainer.gradient_accumulation_steps", accumulated),
        "gradient_clipping": ("trainer.max_grad_norm", args.max_grad_norm),
        "train_micro_batch_size_per_gpu": ("trainer.per_device_train_batch_size", rows),
        "train_batch_size": ("a batch of all processes", processes.count() * accumulated * rows),
    }
