"""Run 3 of `gpu_check.py`: is the forecast right, and do recipes go on where memory runs out?"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from gpu_lab import Lab, peak
from gpu_models import SHAPES, pairs_on_disk, random_model
from gpu_speed import LORA, TRAINER, UNBOUNDED, measured, reward_function, run_quietly
from torch.utils._python_dispatch import TorchDispatchMode

from rlhf_plugins import estimate

RECIPES = Path(__file__).parents[1] / "recipes"
GRID = [("preference", 512), ("reward_model", 2048), ("preference", 2048), ("reward_model", 512), ("online", 512)]
LEFT = 0.6  # share of what a training takes beside the weights that it gets in the second run


# ---- cards -----------------------------------------------------------------------------------------------
def cards(lab: Lab) -> None:
    """Every recipe for a card of so many GB, with no more memory than that: one step of each training."""
    for recipe in sorted(RECIPES.glob("*qwen3_1.7b_12gb.yaml" if lab.tiny else "*gb.yaml")):
        lab.point(recipe.stem, partial(_on_card, lab, recipe))


def _on_card(lab: Lab, file: Path) -> dict[str, Any]:
    """Peaks of a recipe's last stage on a random model in the shape of its base, and pairs of 1,024 tokens each."""
    recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    shape = "tiny" if lab.tiny else next((shape for shape in SHAPES if shape in recipe["base"]), None)
    if shape is None:
        return {"skipped": f"{recipe['base']} has none of the shapes"}
    recipe.pop("chat_template_kwargs", None)  # the rows here are text
    recipe["base"] = str(random_model(lab.scratch / shape, shape, lab.device))
    recipe["data"] = pairs_on_disk(lab.scratch / "card", 32, *((16, 8) if lab.tiny else (512, 512)))
    for stage in recipe["stages"]:
        short = {"max_steps": 1, **({"max_completion_length": 8} if lab.tiny and stage["stage"] == "online" else {})}
        stage.update({"trainer": {**stage["trainer"], **short}} if "trainer" in stage else {})
    found = re.search(r"(\d+)gb$", file.stem)
    assert found is not None
    with _at_most(lab, round(0.95 * int(found[1]) * 2**30)):  # the rest is the context's and the screen's
        run_quietly(lab, recipe)
        return peak(lab)


@contextmanager
def _at_most(lab: Lab, count: int) -> Iterator[None]:
    """For the block torch may reserve so many bytes of a GPU at most."""
    if not lab.cuda:
        yield
        return
    lab.tidy()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, count / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


# ---- recovery --------------------------------------------------------------------------------------------
def recovery(lab: Lab) -> None:
    """Each stage that trains, first with all memory, then with less than it took: the same losses, and how it went."""
    for stage in ("sft", "preference", "reward_model", "online"):
        lab.point(stage, partial(_recovered, lab, stage))


def _recovered(lab: Lab, stage: str) -> dict[str, Any]:
    base = random_model(lab.scratch / lab.header["shape"], lab.header["shape"], lab.device)
    sizes, rows = ((16, 8), 8) if lab.tiny else ((512, 512), 16)
    recipe: dict[str, Any] = {"base": str(base), "adapter": {"r": LORA.r}}
    recipe["data"] = pairs_on_disk(lab.scratch / "rows", rows, *sizes)
    recipe["stages"] = [_stage(lab, stage, rows, sizes[1])]
    weights = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    runs: list[dict[str, Any]] = []
    measured(lab, runs, partial(run_quietly, lab, recipe))
    taken = runs[0].get("reserved_mib", 0) * 2**20
    with _lines() as lines, _at_most(lab, round(weights + LEFT * (taken - weights))), _full(lab, stage == "online"):
        measured(lab, runs, partial(run_quietly, lab, recipe))
    whole, cut = (run["losses"] for run in runs)
    worst = max(abs(a - b) for a, b in zip(whole, cut, strict=True))
    trained = any("computed again in two parts" in line for line in lines)
    sampled = any("generated again for" in line for line in lines)
    alike = sampled or worst < (5e-2 if lab.cuda else 1e-4)  # other samples, other losses
    return {
        "whole": runs[0],
        "cut": runs[1],
        "largest_difference_of_losses": worst,
        "recovered_in_a_step": trained,
        "recovered_in_generation": sampled,
        "ok": alike and (trained or sampled),
    }


def _stage(lab: Lab, stage: str, rows: int, response: int) -> dict[str, Any]:
    """A stage whose batches are cut by nothing but a lack of memory."""
    trainer: dict[str, Any] = {**UNBOUNDED, "max_steps": 2, "per_device_train_batch_size": rows}
    if stage == "sft":
        return {"stage": stage, "trainer": trainer}
    if stage != "online":
        return {"stage": stage, "trainer": trainer, "tokens_per_batch": None}
    more = {"num_generations": 2, "steps_per_generation": 1, "max_completion_length": min(64, response)}
    trainer = {**TRAINER, "max_steps": 2, "per_device_train_batch_size": rows, **more}
    reward = reward_function(lab)
    return {"stage": stage, "advantage": "rloo", "reward": reward, "trainer": trainer, "tokens_per_batch": None}


@contextmanager
def _lines() -> Iterator[list[str]]:
    """For the block, what the project logs of a lack of memory."""
    found: list[str] = []
    log, handler = logging.getLogger("rlhf_plugins"), logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    try:
        yield found
    finally:
        log.removeHandler(handler)


class _Little(TorchDispatchMode):
    """Fails as a full GPU does, where more than so many tokens are embedded at once, with gradients or in any pass."""

    def __init__(self, tokens: int, any_pass: bool) -> None:
        super().__init__()
        self._tokens, self._any_pass = tokens, any_pass

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        large = func is torch.ops.aten.embedding.default and args[1].numel() > self._tokens
        if large and (self._any_pass or torch.is_grad_enabled()):
            raise torch.OutOfMemoryError("CUDA out of memory (rehearsed)")
        return func(*args, **(kwargs or {}))


@contextmanager
def _full(lab: Lab, any_pass: bool) -> Iterator[None]:
    """On a CPU, whose memory has no such limit, the rehearsal of one."""
    if lab.cuda:
        yield
        return
    with _Little(64, any_pass):  # a trial of layouts embeds 57 tokens, four prompts more
        yield


# ---- the forecast ----------------------------------------------------------------------------------------
def memory(lab: Lab) -> None:
    """Peaks of two steps on one pair: a prompt of a quarter of the tokens, two responses of three quarters each."""
    for shape in lab.header["shapes"]:
        folder = lab.scratch / shape
        if not lab.point(f"{shape}, made", partial(_made, folder, shape, lab.device)):
            continue
        for quantization in (None, "nf4"):
            for stage, tokens in GRID[-2:] if lab.tiny else GRID:
                size = 64 if lab.tiny else tokens
                name = f"{shape}, {stage}, {quantization or 'bf16'}, {size} tokens"
                lab.point(name, partial(_grid, lab, folder, quantization, stage, size))
        if shape != lab.header["shape"]:
            shutil.rmtree(folder, ignore_errors=True)


def _made(folder: Path, shape: str, device: str) -> dict[str, Any]:
    return {"bytes": sum(file.stat().st_size for file in random_model(folder, shape, device).iterdir())}


def _grid(lab: Lab, folder: Path, quantization: str | None, stage: str, tokens: int) -> dict[str, Any]:
    """Peaks beside their forecast, and how far that is off."""
    prompt, response = tokens // 4, 3 * tokens // 4
    recipe: dict[str, Any] = {"base": str(folder), "adapter": {"r": LORA.r}}
    recipe |= {"data": pairs_on_disk(lab.scratch / "one", 2, prompt, response), "quantization": quantization or "none"}
    if stage == "online":
        more = {"num_generations": 2, "steps_per_generation": 1, "max_completion_length": response}
        trainer: dict[str, Any] = {**TRAINER, **more, "max_steps": 1, "per_device_train_batch_size": 2}
        trainer["generation_kwargs"] = {"min_new_tokens": response}
        stages: list[dict[str, Any]] = [{"stage": stage, "reward": reward_function(lab), "trainer": trainer}]
        recipe["max_prompt_length"] = prompt + 8  # a tokenizer may add some
    else:
        stages = [{"stage": stage, "trainer": {**UNBOUNDED, "max_steps": 2, "per_device_train_batch_size": 1}}]
    runs: list[dict[str, Any]] = []
    measured(lab, runs, partial(run_quietly, lab, {**recipe, "stages": stages}))
    if stage != "online":
        stages[0]["trainer"] |= {"max_length": tokens}  # as long as these pairs
    whole = {**recipe, "stages": stages, "output_dir": str(lab.scratch / "none")}
    (forecast,) = estimate(whole, gpu="12GB").stages
    found = {name: value for name, value in runs[0].items() if name not in ("losses", "steps")}
    found["forecast_mib"] = forecast.allocated_bytes // 2**20
    if lab.cuda:
        found["forecast_over_allocated"] = round(found["forecast_mib"] / found["allocated_mib"], 3)
    return found


SECTIONS = {
    "cards": (cards, 60.0),
    "recovery": (recovery, 60.0),
    "memory": (memory, 300.0),  # what is left
}
