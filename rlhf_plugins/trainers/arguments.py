"""Our defaults for TRL's configurations, checks of a built trainer, and the progress and curves of a training."""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import is_liger_kernel_available

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.answers import tensors
from rlhf_plugins.contract.guards import named
from rlhf_plugins.contract.metrics import Logged, curve
from rlhf_plugins.contract.run import Curve
from rlhf_plugins.engine.cpu.memory import keep_freed_memory_of_process
from rlhf_plugins.engine.precision import computes_in_bf16, half_precision, on_one_gpu
from rlhf_plugins.errors import PluginError, RunError
from rlhf_plugins.recipe.unsupported_options import COMPUTED_BY_TRANSFORMERS, keeping_the_best
from rlhf_plugins.trainers.optimizer_state import AllocatesState
from rlhf_plugins.trainers.watching.progress import Progress
from rlhf_plugins.trainers.watching.trackers import TrackerEnd, run_name
from rlhf_plugins.trainers.zero import load_whole_models

Config = TypeVar("Config")
NOT_KEPT = {"epoch", "train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "num_tokens"}
NOT_KEPT |= {"runtime", "samples_per_second", "steps_per_second", "model_preparation_time"}  # numbers of an evaluation
NOT_KEPT |= {"step_time", *(f"completions/{which}_length" for which in ("mean", "min", "max"))}
NOT_KEPT |= {f"completions/{which}_terminated_length" for which in ("mean", "min", "max")}


def arguments(config: type[Config], folder: Path, seed: int, trainer: Mapping[str, Any]) -> Config:
    """TRL's configuration from a recipe's `trainer:` block, over defaults that run on any machine.

    TRL turns bfloat16 and gradient checkpointing on everywhere. Here they are on where there is a GPU, and float16 with
    scaled losses takes the place of bfloat16 on a GPU that only emulates it. Nothing is reported to a service and no
    optimizer state is saved unless the recipe asks for it.

    Raises:
        RunError: the configuration refuses the options.
    """
    cuda = torch.cuda.is_available()
    ours: dict[str, Any] = {
        "bf16": half_precision() is torch.bfloat16 and not trainer.get("fp16"),
        "fp16": half_precision() is torch.float16 and trainer.get("bf16") is None,
        "use_cpu": not cuda,
        "gradient_checkpointing": cuda,
        "dataloader_pin_memory": cuda,
        "report_to": "none",
        "run_name": run_name(folder),
        "save_strategy": "no",
        "logging_steps": 10,
        "logging_nan_inf_filter": False,  # it would wait twice for a loss that every stage has checked
        **keeping_the_best(trainer),
        **moving(trainer, cuda),
    }
    note = r"`(is_)?gradient_checkpointing` is deprecated"  # TRL's own defaults cause it
    warnings.filterwarnings("ignore", message=note, category=FutureWarning)
    if trainer.get("bf16") and cuda and not computes_in_bf16():
        raise RunError("trainer: bf16, but this GPU does not compute in it; leave it out: losses are scaled in fp16")
    if trainer.get("fp16") and not cuda:
        raise RunError(
            "trainer: fp16, but there is no GPU, and a CPU does not train in it: leave it out, or write bf16"
        )
    if trainer.get("activation_offloading") and not cuda:
        raise RunError("trainer: activation_offloading, but there is no GPU, whose memory it spares: leave it out")
    try:
        made: Any = config(**{**ours, **trainer, "output_dir": str(folder), "seed": seed})
    except (TypeError, ValueError) as error:
        raise RunError(f"trainer: {config.__name__} refuses these options: {error}") from error
    load_whole_models()
    return on_one_gpu(made)


def refuse_uninstalled(args: Any) -> None:
    """Raises RunError where an option of a trainer asks for vLLM or Liger's kernels, and they are not installed."""
    if getattr(args, "use_vllm", False):
        from trl.generation import vllm_generation

        if not vllm_generation.is_vllm_available():
            raise RunError("trainer: use_vllm needs the package vllm, which is not installed: `pip install vllm`")
    if args.use_liger_kernel and not is_liger_kernel_available():
        how = "`pip install 'rlhf-plugins[liger]'`"
        raise RunError(f"trainer: use_liger_kernel needs the package liger-kernel, which is not installed: {how}")


class Curves(TrainerCallback):
    """Keeps every number that a trainer logs, by name: `[(step, value), ...]`, and passes it to `log`."""

    def __init__(self, log: Callable[[int, Mapping[str, float]], None]) -> None:
        self.values: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.known: dict[str, Logged] = {}  # units of a stage's own numbers
        self._log = log

    @property
    def curves(self) -> dict[str, Curve]:
        """The numbers so far, as a stage returns them."""
        return {name: curve(name, points, self.known) for name, points in self.values.items()}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Makes the trainer log the last step too, without which a short training logs nothing."""
        last = state.global_step >= state.max_steps or control.should_training_stop
        control.should_log |= last and args.logging_strategy != IntervalStrategy.NO

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Called by the trainer."""
        kept = {k: v for k, v in (logs or {}).items() if k.removeprefix("eval_") not in NOT_KEPT}
        logged = {k: float(v) for k, v in kept.items() if isinstance(v, int | float)}
        for name, value in logged.items():
            self.values[name].append((state.global_step, value))
        if logged:
            self._log(state.global_step, logged)

    def state_dict(self) -> dict[str, Any]:
        """The numbers so far."""
        return {"values": dict(self.values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        self.values.clear()
        self.values.update(state["values"])


@contextmanager
def building(rows: int) -> Iterator[None]:
    """For the block that builds a trainer: bars of `datasets` for many rows in a terminal only, errors of one line.

    Raises:
        RunError: TRL or PEFT refuses its arguments, such as an adapter on modules that the model lacks, the chat
            template refuses a prompt, or a package or file that an option needs is missing.
    """
    silent = (rows <= 10_000 or not sys.stderr.isatty()) and not are_progress_bars_disabled()
    if silent:
        disable_progress_bars()
    try:
        yield
    except (ValueError, NotImplementedError, ImportError, OSError, TemplateError) as error:
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"the trainer cannot be built: {message}") from error
    finally:
        if silent:
            enable_progress_bars()


def record_curves(trainer: Any, log: Callable[[int, Mapping[str, float]], None]) -> Curves:
    """Returns the curves that a training will fill; it gets our progress bar in the place of its own.

    Args:
        trainer: a `transformers.Trainer`.
        log: called with each step and its numbers, as `Run.log`.

    Raises:
        RunError: the base is in float16, and the losses are not scaled.
    """
    _refuse_unscaled(trainer)
    curves = Curves(log)
    trainer.remove_callback(ProgressCallback)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(Progress)
    trainer.add_callback(TrackerEnd)
    trainer.add_callback(curves)
    return curves


def _refuse_unscaled(trainer: Any) -> None:
    if not trainer.args.fp16 and any(each.dtype is torch.float16 for each in trainer.model.parameters()):
        raise RunError(
            "trainer: the base is in float16 on this GPU, in which small gradients become 0 unless losses are scaled: "
            "leave out `bf16: false` and `fp16: false`"
        )


def acting(component: Any) -> Any:
    """The object that does the work of a component, which may have state but no weights.

    Raises:
        PluginError: it built weights, which nothing would train.
    """
    made = component.acting()
    if isinstance(made, torch.nn.Module) and next(made.parameters(), None) is not None:
        raise PluginError(f"{named(component)} built weights, which are not trained here, only in reward models")
    return made


def moving(trainer: Mapping[str, Any], cuda: bool) -> dict[str, Any]:
    """Options that copy batches to a GPU while it computes; by default the host waits for each tensor."""
    pinned = trainer.get("dataloader_pin_memory", True)
    return {"accelerator_config": {"non_blocking": True}} if cuda and pinned else {}


def mean_loss(losses: Tensor, loss: Any, inputs: Any, step: int) -> Tensor:
    """Mean of a loss component's losses, one per example.

    Raises:
        PluginError: it is not finite although all inputs are.
        RunError: an input is not finite.
    """
    mean = losses.mean()
    if torch.isfinite(mean):
        return mean
    for which, tensor in tensors((inputs,)).items():
        for value in tensor[~tensor.isfinite()][:1]:
            finite(value, step, which)
    raise PluginError(f"{named(loss)} made {mean.item()} of finite numbers at step {step}")


def finite(value: Tensor, step: int, what: str) -> Tensor:
    """The scalar itself. Raises RunError if it is NaN or infinite, since all weights would become so."""
    if not torch.isfinite(value):
        raise RunError(not_finite(what, value, f" at step {step}"))
    return value


def not_finite(what: str, value: Tensor, where: str = "") -> str:
    """The message about a scalar that is NaN or infinite."""
    return f"{what} became {value.item()}{where}: try a smaller learning_rate or max_grad_norm"


def prepare(trainer: Any) -> None:
    """Checks a trainer that was just built, and makes its model and process ready for training.

    Raises:
        RunError: it was launched in several processes without a recipe, or has too few rows for a batch.
    """
    check_one_process(trainer)
    check_rows(trainer)
    make_ready(trainer)


def make_ready(trainer: Any) -> None:
    """Makes the model and the process of a trainer that was checked ready for training."""
    if not isinstance(trainer.model, PreTrainedModel):  # a script loads a model in the precision that it wants
        train_in_float32(trainer.model)
    keep_freed_memory_of_process(trainer.args.device)
    trainer.add_callback(AllocatesState())


def check_one_process(trainer: Any) -> None:
    """Raises RunError in a distributed launch without a recipe, in which gradients would not be averaged."""
    if trainer.accelerator.num_processes > processes.count():
        raise RunError(f"{type(trainer).__name__} runs in one process; it was launched in several")


def unusual_launch(trainer: Any) -> Iterator[str]:
    """Words for each part of the launch and of transformers' options that our engine does not support."""
    accelerator, args = trainer.accelerator, trainer.args
    if accelerator.num_processes > processes.count() or accelerator.parallelism_config is not None:
        yield "several processes"
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        yield "DeepSpeed or FSDP"
    for name, off in COMPUTED_BY_TRANSFORMERS.items():
        if getattr(args, name) not in (off, None):
            yield f"{name}={getattr(args, name)!r}"
    if "inputs" in args.include_for_metrics:
        yield f"include_for_metrics={args.include_for_metrics!r}"


def unusual_adapter(model: nn.Module) -> Iterator[str]:
    """Words for each adapter that works on whole rows of tokens: here responses share a row."""
    for config in getattr(model, "peft_config", {}).values():
        if config.is_prompt_learning:
            yield "an adapter that learns a prompt"
        if getattr(config, "alora_invocation_tokens", None):
            yield "an adapter that begins at alora_invocation_tokens"


def check_rows(trainer: Any) -> None:
    """Raises RunError if a trainer has too few rows for one batch; rows that are streamed cannot be counted."""
    if not hasattr(trainer.train_dataset, "__len__"):
        return
    rows = len(trainer.train_dataset)
    if rows == 0 or len(trainer.get_train_dataloader()) == 0:
        raise RunError(_too_few(trainer.args, rows))


def refuse_few_rows(args: Any, rows: int) -> None:
    """Raises RunError where the trainer of a stage, which drops a last batch that is not full, has no full one."""
    if args.dataloader_drop_last and rows < args.train_batch_size:
        raise RunError(_too_few(args, rows))


def refuse_few_prompts(args: Any, prompts: int) -> None:
    """Raises RunError where the trainer of a stage has fewer prompts than a rollout takes."""
    if prompts < args.generation_batch_size // args.num_generations:
        raise RunError(_too_few(args, prompts))


def train_in_float32(model: nn.Module) -> None:
    """Converts all weights that are trained to float32.

    TRL rounds the adapter of a quantized model to bfloat16, in which a small learning rate changes nothing.
    """
    for weights in model.parameters():
        if weights.requires_grad:
            weights.data = weights.data.float()


def _too_few(args: Any, rows: int) -> str:
    if hasattr(args, "generation_batch_size"):
        prompts = args.generation_batch_size // args.num_generations
        sizes = "per_device_train_batch_size or steps_per_generation, or a larger num_generations"
        return f"there are {rows} prompts, but a rollout takes {prompts}: try a smaller {sizes}"
    return f"there are {rows} rows, too few for one batch: give more data, or change per_device_train_batch_size"
