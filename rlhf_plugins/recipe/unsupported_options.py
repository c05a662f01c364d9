"""Options of TRL and transformers that no training here supports, which TRL ignores or fails on late."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field

from rlhf_plugins.errors import nearest

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]

RANGES: Mapping[str, Any] = {
    "adam_beta1": Decay,
    "adam_beta2": Decay,
    "adam_epsilon": Positive,
    "dataloader_num_workers": NotNegative,
    "dataset_num_proc": Count,
    "eval_accumulation_steps": Count,
    "eval_delay": NotNegative,
    "eval_steps": Positive,
    "generation_batch_size": Count,
    "gradient_accumulation_steps": Count,
    "label_smoothing_factor": Share,
    "learning_rate": NotNegative,
    "logging_steps": Positive,
    "max_completion_length": Count,
    "max_grad_norm": NotNegative,
    "max_length": Count,
    "max_steps": Literal[-1] | Count,
    "min_p": Share,
    "num_generations": Count,
    "num_iterations": Count,
    "num_train_epochs": Positive,
    "per_device_eval_batch_size": Count,
    "per_device_train_batch_size": Count,
    "repetition_penalty": Positive,
    "save_steps": Positive,
    "save_total_limit": Count,
    "steps_per_generation": Count,
    "temperature": Positive,
    "top_k": NotNegative,
    "top_p": Annotated[float, Field(gt=0, le=1)],
    "warmup_steps": NotNegative,
    "weight_decay": NotNegative,
}
TRACKERS: Mapping[str, str] = {  # transformers' name -> the package that it imports
    "azure_ml": "azureml",
    "clearml": "clearml",
    "codecarbon": "codecarbon",
    "comet_ml": "comet_ml",
    "dagshub": "dagshub",
    "dvclive": "dvclive",
    "flyte": "flytekit",
    "kubeflow": "kubeflow",
    "mlflow": "mlflow",
    "neptune": "neptune",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
NEEDS: Mapping[str, tuple[str, ...]] = {  # a strategy, "no" by default -> options that change nothing without it
    "eval_strategy": ("eval_steps", "eval_delay", "eval_on_start"),
    "save_strategy": ("save_steps", "save_total_limit", "save_only_model"),
}
FULL_EVAL = frozenset({"bf16_full_eval", "fp16_full_eval"})  # read by an evaluation outside a training alone
COMPUTED_BY_TRANSFORMERS: Mapping[str, Any] = {  # options of its forward pass and batches, and where they do nothing
    "torch_compile": False,
    "neftune_noise_alpha": None,
    "use_liger_kernel": False,
    "include_num_input_tokens_seen": "no",
    **dict.fromkeys(sorted(FULL_EVAL), False),
    "debug": [],
}
OF_TRANSFORMERS = frozenset(  # these with those that they read: the engine has a forward pass and batches of its own
    {*COMPUTED_BY_TRANSFORMERS}
    | {"include_for_metrics", "liger_kernel_config", "torch_compile_backend", "torch_compile_mode"}
)
LOW_RANK = ("galore", "apollo")  # optimizers that project the gradients of some modules
WORDS = ("all", "none")  # other values of `report_to`


def keeping_the_best(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """What `load_best_model_at_end` needs besides: a checkpoint at every evaluation, of which two are kept."""
    strategy = trainer.get("eval_strategy", "no")
    if not trainer.get("load_best_model_at_end") or strategy == "no":  # transformers refuses the two together
        return {}
    every = trainer.get("eval_steps") or trainer.get("logging_steps", 10)
    return {"save_strategy": strategy, "save_steps": every, "save_total_limit": 2}


def useless(trainer: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The options that are given without the strategy or the optimizer that reads them: which, and a message."""
    if trainer.get("optim_target_modules") and not str(trainer.get("optim")).startswith(LOW_RANK):
        yield "optim_target_modules", "changes nothing without `optim: galore_adamw` or `apollo_adamw`, which read it"
    if trainer.get("push_to_hub"):
        yield (
            "push_to_hub",
            "uploads no finished model: `rlhf export RUN#STAGE OUT` writes one, `hf upload NAME OUT` sends it",
        )
    given = {**keeping_the_best(trainer), **trainer}
    for strategy, names in NEEDS.items():
        if given.get(strategy, "no") in ("no", False):
            what = "evaluates" if strategy == "eval_strategy" else "saves; `checkpoint:` is what a run goes on from"
            yield from (
                (name, f"changes nothing without `{strategy}`, which {what}") for name in names if trainer.get(name)
            )


def check_trackers(named: Any) -> None:
    """Raises ValueError where a value of `report_to` names a tracker that is unknown, or not installed."""
    for tracker in [named] if isinstance(named, str) else named or ():
        _tracker(tracker)


def _tracker(name: str) -> None:
    if name in WORDS:
        return
    if name not in TRACKERS:
        raise ValueError(f"unknown tracker {name!r} {nearest(name, [*TRACKERS, *WORDS])}")
    if find_spec(TRACKERS[name]) is None:
        raise ValueError(f"{name} is not installed: `pip install {TRACKERS[name]}`, or write none")
