"""What a launch asks of DeepSpeed, in the environment or a configuration, and what of it no recipe was tried with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlhf_plugins.errors import RunError

CONFIG_FILE, STAGE = "deepspeed_config_file", "zero_stage"
OPTIMIZER, WEIGHTS = "offload_optimizer_device", "offload_param_device"
IN_FILE = {  # what accelerate reads in the file alone, where there is one
    STAGE: "zero_optimization.stage",
    OPTIMIZER: "zero_optimization.offload_optimizer.device",
    WEIGHTS: "zero_optimization.offload_param.device",
}
BESIDE = ("gradient_accumulation_steps", "gradient_clipping")
NAMES = {  # option -> environment variable
    CONFIG_FILE: "ACCELERATE_DEEPSPEED_CONFIG_FILE",
    **{option: f"ACCELERATE_DEEPSPEED_{option.upper()}" for option in (*IN_FILE, "zero3_save_16bit_model")},
    **{option: f"ACCELERATE_{option.upper()}" for option in BESIDE},
    "use_cpu": "ACCELERATE_USE_CPU",
}
STAGES = ("1", "2", "3")  # each divides the optimizer's state, 3 also the weights
OFF = ("none", "false", "0", "")
OF_RECIPE = {"optimizer": "optim", "scheduler": "lr_scheduler_type"}  # sections of a file, and the trainer's own option
OWN_ADAM = "zero_force_ds_cpu_optimizer"  # replaces an offloaded optimizer; not resumed bit for bit
PERSISTING = "zero_optimization.stage3_param_persistence_threshold"  # what is written into such a weight would be lost
NUMBERS = ("train_batch_size", "train_micro_batch_size_per_gpu", *BESIDE)  # the recipe has them too
HALVES = ("bf16", "fp16")
WAITING, HALF = {"device", "pin_memory"}, {"enabled"}
TRIED: dict[str, set[str]] = {  # the other sections: numbers, what is printed, and how ZeRO sends and keeps
    "": {
        *NUMBERS,
        *("zero_optimization", "zero_allow_untested_optimizer", OWN_ADAM, "bf16", "fp16"),
        *("steps_per_print", "wall_clock_breakdown"),
    },
    "zero_optimization": {
        *("stage", "offload_optimizer", "offload_param", "overlap_comm", "contiguous_gradients", "reduce_scatter"),
        *("reduce_bucket_size", "allgather_partitions", "allgather_bucket_size", "round_robin_gradients"),
        *("sub_group_size", "stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_prefetch_bucket_size"),
        *("stage3_param_persistence_threshold", "stage3_gather_16bit_weights_on_model_save"),
    },
    "zero_optimization.offload_optimizer": WAITING,
    "zero_optimization.offload_param": WAITING,
    "bf16": HALF,
    "fp16": {*HALF, "loss_scale", "loss_scale_window", "initial_scale_power", "hysteresis", "min_loss_scale"},
}


@dataclass(frozen=True)
class Zero:
    """How DeepSpeed divides a training.

    Args:
        stage: the stage of ZeRO.
        precision: the precision that a file of its own asks for: "bf16", "fp16", "no".
        left_out: numbers that such a file leaves to the recipe, which DeepSpeed would set by itself.
    """

    stage: str
    precision: str = "no"
    left_out: tuple[str, ...] = ()


def asked_of_zero(given: Mapping[str, Any], several: bool) -> Zero:
    """What a launch asks for.

    Args:
        given: options of `deepspeed_config` in a configuration of accelerate, and `use_cpu`.
        several: whether it starts several processes.

    Raises:
        RunError: no recipe was tried with it, or DeepSpeed would not train.
    """
    if not several:
        raise RunError("the launch asks for DeepSpeed in one process, which has nothing to divide: launch several")
    if _is_on(given.get("use_cpu")):
        raise RunError("the launch asks for DeepSpeed and use_cpu, with which accelerate leaves it out: remove use_cpu")
    file = given.get(CONFIG_FILE)
    asked = _of_file(Path(str(file)), given) if _is_on(file) else Zero(_stage(given, ""))
    if find_spec("deepspeed") is None:
        raise RunError("the launch asks for DeepSpeed, which is missing: pip install 'rlhf-plugins[deepspeed]'")
    return asked


def _of_file(file: Path, given: Mapping[str, Any]) -> Zero:
    config = _read(file)
    if twice := sorted(given.keys() & NAMES.keys() - {CONFIG_FILE, "use_cpu"}):
        raise RunError(f"{file}: accelerate reads no {twice[0]} beside it: remove {twice[0]}, or write it there")
    halves = [half for half in HALVES if _at(config, f"{half}.enabled") is True]
    options = {option: _at(config, path) for option, path in IN_FILE.items()}
    left_out = tuple(name for name in NUMBERS if name not in config)
    return Zero(_stage(options, f"{file}: "), halves[0] if halves else "no", left_out)


def _stage(options: Mapping[str, Any], where: str) -> str:
    """The stage of ZeRO. Raises RunError for another one, and for offloading that was not tried."""
    stage = str(options.get(STAGE, 2))
    if stage not in STAGES:
        raise RunError(f"{where}the launch asks for {STAGE}: {stage}, with which no recipe was tried: write 1, 2 or 3")
    for option in (OPTIMIZER, WEIGHTS):
        if _is_on(options.get(option)) and options[option] != "cpu":
            raise RunError(
                f"{where}the launch asks for {option}: {options[option]}, with which no recipe was tried: write cpu"
            )
    if _is_on(options.get(WEIGHTS)) and stage != "3":
        raise RunError(f"{where}the launch asks for {WEIGHTS}, which is of ZeRO-3, and for ZeRO-{stage}: write none")
    return stage


def _read(file: Path) -> dict[str, Any]:
    """A configuration of DeepSpeed's own. Raises RunError where it cannot be read, or has what was not tried."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: no configuration of DeepSpeed, which is a file of JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("zero_optimization"), dict):
        raise RunError(f"{file}: no configuration of DeepSpeed with a section zero_optimization")
    for section, own in OF_RECIPE.items():
        if section in config:
            raise RunError(f"{file}: {section}: is the recipe's: remove it, and write trainer: {{{own}: ...}} there")
    if untried := sorted(_untried(config)):
        raise RunError(f"{file}: {untried[0]}: was not tried with any recipe: remove it")
    for half in HALVES:
        if not isinstance(asked := _at(config, f"{half}.enabled"), bool | None) and asked != "auto":
            raise RunError(f"{file}: {half}.enabled: {asked!r}: write true, false or auto")
    if config.get(OWN_ADAM) is True:
        raise RunError(f"{file}: {OWN_ADAM}: the recipe's optimizer steps on the CPU: write false")
    if _at(config, PERSISTING) not in (None, 0, "auto"):
        raise RunError(f"{file}: {PERSISTING}: what is written into a weight that persists would be lost: write 0")
    return config


def _untried(config: Mapping[str, Any]) -> Iterator[str]:
    for section, known in TRIED.items():
        found = _at(config, section) if section else config
        if isinstance(found, Mapping):
            yield from (f"{section}.{name}".removeprefix(".") for name in found.keys() - known)
        elif found is not None:
            yield section


def _at(config: Mapping[str, Any], path: str) -> Any:
    """What a file has there, or None."""
    found: Any = config
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _is_on(value: Any) -> bool:
    return str(value).lower() not in OFF
