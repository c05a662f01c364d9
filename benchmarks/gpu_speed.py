"""Run 2 of `gpu_check.py`: how fast is it beside stock TRL on the same rows?"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import trl
from datasets import Dataset
from gpu_decoding import decoding
from gpu_lab import Lab, forget_peaks, peak
from gpu_models import Training, Watch, later, made_for, pairs, pairs_on_disk, random_model, text
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf_plugins import run_recipe
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.data.batches.branches import BranchBatch, Layout, PromptBranches, collate
from rlhf_plugins.engine.forward import trunk_of
from rlhf_plugins.engine.log_probs import response_logps
from rlhf_plugins.engine.precision import half_precision
from rlhf_plugins.engine.probing import layout_of
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer, lora_config, with_adapter
from rlhf_plugins.trainers.arguments import arguments

LORA = Adapter(r=16)
TRAINER = {"learning_rate": 1e-4, "logging_steps": 1, "disable_tqdm": True}
UNBOUNDED = {**TRAINER, "max_length": None}  # pairs are not cut
REWARD = '''"""A reward that needs no model."""


def reward(completion_ids, **_):
    return [sum(token % 2 for token in ids) / max(1, len(ids)) for ids in completion_ids]
'''


# ---- the machine -----------------------------------------------------------------------------------------
def machine(lab: Lab) -> None:
    """What the figures of any program on this machine are bounded by."""
    lab.point("rates", partial(_rates, lab))


def _rates(lab: Lab) -> dict[str, Any]:
    size, dtype = (8192, torch.bfloat16) if lab.cuda else (256, torch.float32)
    left, small = torch.randn(size, size, device=lab.device, dtype=dtype), torch.ones(8, device=lab.device)
    product = _seconds(lab, lambda: left @ left, 5)
    copy = _seconds(lab, left.clone, 5)
    launch = _seconds(lab, lambda: [small.add_(1) for _ in range(1000)], 3)
    moved = 2 * left.numel() * left.element_size()
    return {"matmul_tflops": 2 * size**3 / product / 1e12, "copy_gb_s": moved / copy / 1e9, "launch_us": launch * 1e3}


def _seconds(lab: Lab, work: Callable[[], object], times: int) -> float:
    """The least of several runs, after one that does not count."""
    spent = []
    for _ in range(times + 1):
        lab.synchronize()
        began = time.perf_counter()
        work()
        lab.synchronize()
        spent.append(time.perf_counter() - began)
    return min(spent[1:])


# ---- beside stock TRL ------------------------------------------------------------------------------------
def beside_trl(lab: Lab) -> None:
    """DPO and reward models: seconds per step and memory of both sides, where their losses agree at every step."""
    cases = [(16, 8, 4)] if lab.tiny else [(384, 128, 8), (1536, 512, 4)]
    for prompt, response, count in cases:
        for stage in ("preference", "reward_model"):
            name = f"{stage}, {count} x ({prompt} + 2 x {response})"
            lab.point(name, partial(_beside, lab, stage, (prompt, response, count)))


def _beside(lab: Lab, stage: str, sizes: tuple[int, int, int]) -> dict[str, Any]:
    """Both sides twice, in turn, since a machine may be uneven; every step trains on all the pairs."""
    base = random_model(lab.scratch / lab.header["shape"], lab.header["shape"], lab.device)
    steps = 2 if lab.tiny else 6
    options = {**UNBOUNDED, "max_steps": steps, "per_device_train_batch_size": sizes[2]}
    sides: dict[str, list[dict[str, Any]]] = {"ours": [], "stock": []}
    start: dict[str, torch.Tensor] | None = None
    for _ in range(1 if lab.tiny else 2):
        data = pairs_on_disk(lab.scratch / "rows", sizes[2], *sizes[:2])
        recipe: dict[str, Any] = {"base": str(base), "adapter": {"r": LORA.r}, "data": data}
        recipe["stages"] = [{"stage": stage, "trainer": options}]
        start = measured(lab, sides["ours"], partial(run_quietly, lab, recipe), start).start
        measured(lab, sides["stock"], partial(STOCK[stage], lab, base, sizes, options), start)
    losses = [side[0]["losses"] for side in (sides["ours"], sides["stock"])]
    worst = max(abs(a - b) for a, b in zip(*losses, strict=True))
    found = {side: _medians(runs) for side, runs in sides.items()}
    ratio = found["stock"]["step_seconds"] / found["ours"]["step_seconds"]
    equal = worst < (5e-2 if lab.cuda else 2e-3)
    return {**found, "largest_difference_of_losses": worst, "ratio": ratio if equal else None, "ok": equal}


def measured(
    lab: Lab, runs: list[dict[str, Any]], work: Callable[[], object], start: dict[str, torch.Tensor] | None = None
) -> Training:
    """Runs one training, and adds its figures to `runs`."""
    lab.tidy()
    forget_peaks(lab)
    with Watch(lab.synchronize, start=start) as watch:
        work()
    training = watch.trainings[-1]
    seconds = median(later(training.steps))
    runs.append(
        {
            "step_seconds": seconds,
            "build_seconds": training.build_seconds,
            "losses": training.losses,
            "steps": training.steps,
            **peak(lab),
        }
    )
    training.trainer = None  # frees the model before the next one is measured
    return training


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    numbers = [name for name, value in runs[0].items() if isinstance(value, int | float)]
    return {**{name: median(run[name] for run in runs) for name in numbers}, "losses": runs[0]["losses"]}


def run_quietly(lab: Lab, recipe: dict[str, Any]) -> None:
    run_recipe({**recipe, "output_dir": str(lab.scratch / "run")}, overwrite=True, say=lambda _: None)


def _stock_preference(lab: Lab, base: Path, sizes: tuple[int, int, int], options: dict[str, Any]) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=_dtype(lab)).to(lab.device)
    args = arguments(trl.DPOConfig, lab.scratch / "stock", 0, options)
    _stock(trl.DPOTrainer, model, args, base, sizes, "CAUSAL_LM").train()


def _stock_reward(lab: Lab, base: Path, sizes: tuple[int, int, int], options: dict[str, Any]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=_dtype(lab)).to(lab.device)
    args = arguments(trl.RewardConfig, lab.scratch / "stock", 0, options)
    _stock(trl.RewardTrainer, model, args, base, sizes, "SEQ_CLS").train()


def _stock(trainer: Any, model: Any, args: Any, base: Path, sizes: tuple[int, int, int], task: str) -> Any:
    rows = Dataset.from_list(pairs(sizes[2], *sizes[:2]))
    words = load_tokenizer(Base(str(base)))
    return trainer(model, args=args, train_dataset=rows, processing_class=words, peft_config=lora_config(LORA, task))


STOCK: dict[str, Callable[..., None]] = {"preference": _stock_preference, "reward_model": _stock_reward}


def _dtype(lab: Lab) -> torch.dtype:
    return (lab.cuda and half_precision()) or torch.float32


# ---- compiled layers -------------------------------------------------------------------------------------
def compiled(lab: Lab) -> None:
    """Seconds per step with `engine: auto` and `engine: compiled`, where their losses agree at every step."""
    sizes = (16, 8, 4) if lab.tiny else (384, 128, 8)
    for stage in ("preference", "reward_model"):
        lab.point(f"{stage}, {sizes[2]} x ({sizes[0]} + 2 x {sizes[1]})", partial(_compiled, lab, stage, sizes))


def _compiled(lab: Lab, stage: str, sizes: tuple[int, int, int]) -> dict[str, Any]:
    """The first step compiles and tries each layer; it does not count."""
    base = random_model(lab.scratch / lab.header["shape"], lab.header["shape"], lab.device)
    options = {**UNBOUNDED, "max_steps": 2 if lab.tiny else 6, "per_device_train_batch_size": sizes[2]}
    data = pairs_on_disk(lab.scratch / "rows", sizes[2], *sizes[:2])
    recipe: dict[str, Any] = {"base": str(base), "adapter": {"r": LORA.r}, "data": data}
    recipe["stages"] = [{"stage": stage, "trainer": options}]
    runs: list[dict[str, Any]] = []
    start: dict[str, torch.Tensor] | None = None
    for engine in ("auto", "compiled"):
        start = measured(lab, runs, partial(run_quietly, lab, {**recipe, "engine": engine}), start).start
    auto, own = runs
    worst = max(abs(a - b) for a, b in zip(auto["losses"], own["losses"], strict=True))
    ratio, equal = auto["step_seconds"] / own["step_seconds"], worst < (5e-2 if lab.cuda else 2e-3)
    found = {"auto": auto, "compiled": own, "compiling_seconds": own["steps"][0] - auto["steps"][0]}
    return {**found, "largest_difference_of_losses": worst, "ratio": ratio if equal else None, "ok": equal}


# ---- layouts ---------------------------------------------------------------------------------------------
def layout_speed(lab: Lab) -> None:
    """Forward and backward pass of the same groups in each layout, with an adapter, each layout twice in turn."""
    folder = random_model(lab.scratch / lab.header["shape"], lab.header["shape"], lab.device)
    model = with_adapter(load_causal(Base(str(folder), None, LORA)), LORA, "CAUSAL_LM").train()
    lab.point("chosen", lambda: {"layout": layout_of(model).value})
    for name, groups in _shapes(lab.tiny).items():
        for layout in (Layout.ROWS, Layout.PACKED, Layout.SEPARATE) * (1 if lab.tiny else 2):
            lab.point(f"{name}, {layout.value}", partial(_passed, lab, model, layout, groups))


def _shapes(tiny: bool) -> dict[str, list[PromptBranches]]:
    """Equal groups of 10,240 tokens in all, and ragged ones."""
    shapes, draw, scale = {}, random.Random(0), 16 if tiny else 1
    for prompt, responses, length in ((384, 2, 128), (1536, 2, 512), (512, 8, 256), (128, 4, 128)):
        count = 10_240 // (prompt + responses * length)
        name = f"{count} x ({prompt} + {responses} x {length})"
        shapes[name] = [_group(prompt // scale, [length // scale] * responses)] * count

    def drawn(most: int) -> int:
        return draw.randint(1, most // scale)

    return {**shapes, "ragged": [_group(drawn(512), [drawn(384), drawn(384)]) for _ in range(16)]}


def _group(prompt: int, branches: list[int]) -> PromptBranches:
    return PromptBranches([5] * prompt, [[6] * length for length in branches])


def _passed(lab: Lab, model: Any, layout: Layout, groups: list[PromptBranches]) -> dict[str, Any]:
    inputs = collate(groups, 0, layout)
    batch = BranchBatch.from_inputs({name: each.to(lab.device) for name, each in inputs.items()})
    forget_peaks(lab)

    def work() -> None:
        with torch.autocast(lab.device, _dtype(lab), enabled=lab.cuda):
            response_logps(model, batch).logps.sum().backward()
        model.zero_grad()

    with made_for(trunk_of(model), layout):
        seconds = _seconds(lab, work, 1 if lab.tiny else 3)
    return {"seconds": seconds, "tokens": batch.input_ids.numel(), **peak(lab)}


# ---- online ----------------------------------------------------------------------------------------------
def online(lab: Lab) -> None:
    """Episodes per second: PPO with a reward model on the same base, and GRPO beside TRL's, both with one function."""
    lab.point("ppo", partial(_ppo, lab))
    lab.point("grpo beside TRL", partial(_grpo, lab))


def _rollout(lab: Lab, **more: Any) -> dict[str, Any]:
    """16 episodes of full length in a batch."""
    length, episodes = (8, 4) if lab.tiny else (128, 16)
    own = {"per_device_train_batch_size": episodes, "steps_per_generation": 1, "max_completion_length": length}
    return {**TRAINER, **own, "generation_kwargs": {"min_new_tokens": length}, **more}


def _ppo(lab: Lab) -> dict[str, Any]:
    base = random_model(lab.scratch / lab.header["shape"], lab.header["shape"], lab.device)
    data = pairs_on_disk(lab.scratch / "prompts", 16, *((16, 8) if lab.tiny else (256, 32)))
    updates, batches = (1, 2) if lab.tiny else (4, 3)
    trainer = _rollout(lab, num_generations=1, num_iterations=updates, max_steps=updates * batches)
    judge = {"stage": "reward_model", "trainer": {**UNBOUNDED, "max_steps": 1, "per_device_train_batch_size": 4}}
    recipe: dict[str, Any] = {"base": str(base), "adapter": {"r": LORA.r}, "data": data}
    recipe["stages"] = [judge, {"stage": "online", "trainer": trainer}]
    runs: list[dict[str, Any]] = []
    measured(lab, runs, partial(run_quietly, lab, recipe))
    return {**_episodes(runs[0], trainer["per_device_train_batch_size"], updates), "updates_per_batch": updates}


def _episodes(run: dict[str, Any], episodes: int, updates: int) -> dict[str, Any]:
    """Episodes per second, without the first batch."""
    batches = [sum(run["steps"][i : i + updates]) for i in range(updates, len(run["steps"]), updates)]
    kept = {name: value for name, value in run.items() if name.endswith("_mib") or name == "build_seconds"}
    return {"episodes_per_second": episodes / median(batches), "batch_seconds": batches, **kept}


def _grpo(lab: Lab) -> dict[str, Any]:
    """Samples differ, so no loss can be compared: tokens and updates are equal in number."""
    base = random_model(lab.scratch / lab.header["shape"], lab.header["shape"], lab.device)
    prompt = 16 if lab.tiny else 256
    data = pairs_on_disk(lab.scratch / "prompts", 16, prompt, 8 if lab.tiny else 32)
    trainer = _rollout(lab, num_generations=4, max_steps=2 if lab.tiny else 4)
    stage = {"stage": "online", "advantage": "grpo", "reward": reward_function(lab), "trainer": trainer}
    stage["kl"] = {"use": "in_loss", "coef": 0.05}
    recipe = {"base": str(base), "adapter": {"r": LORA.r}, "data": data, "stages": [stage]}
    runs: list[dict[str, Any]] = []
    for work in (partial(run_quietly, lab, recipe), partial(_stock_grpo, lab, base, prompt, trainer)):
        measured(lab, runs, work)
    found = [_episodes(run, trainer["per_device_train_batch_size"], 1) for run in runs]
    ratio = found[0]["episodes_per_second"] / found[1]["episodes_per_second"]
    return {"ours": found[0], "stock": found[1], "ratio": ratio}


def reward_function(lab: Lab) -> dict[str, str]:
    """A recipe's words for a reward that needs no model."""
    file = lab.scratch / "reward.py"
    file.write_text(REWARD)
    return {"use": "python", "path": f"{file}:reward"}


def _stock_grpo(lab: Lab, base: Path, prompt: int, options: dict[str, Any]) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=_dtype(lab)).to(lab.device)
    draw, scope = random.Random(0), dict[str, Any]()
    exec(REWARD, scope)
    args = arguments(trl.GRPOConfig, lab.scratch / "stock", 0, {**options, "beta": 0.05})
    trl.GRPOTrainer(
        model,
        reward_funcs=scope["reward"],
        args=args,
        train_dataset=Dataset.from_list([{"prompt": text(draw, prompt) + " "} for _ in range(16)]),
        processing_class=load_tokenizer(Base(str(base))),
        peft_config=lora_config(LORA, "CAUSAL_LM"),
    ).train()


SECTIONS = {
    "machine": (machine, 15.0),
    "beside_trl": (beside_trl, 85.0),
    "layout_speed": (layout_speed, 40.0),
    "online": (online, 50.0),
    "decoding": (decoding, 65.0),
    "compiled": (compiled, 45.0),
}
