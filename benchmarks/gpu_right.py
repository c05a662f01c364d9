"""Run 1 of `gpu_check.py`: does everything run on this machine, and are the numbers right?"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_lab import Lab
from gpu_models import Watch, made_for, pairs_on_disk, random_model, text, windowed_model
from torch import Tensor
from transformers import AutoModel, Gemma3TextConfig, LlamaConfig

from rlhf_plugins import export_reward_model, load_policy, load_reward_model, open_run, run_recipe, set_engine
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.data.batches.branches import BranchBatch, Layout, PromptBranches, collate
from rlhf_plugins.engine.forward import trunk_of
from rlhf_plugins.engine.half import trials
from rlhf_plugins.engine.log_probs import response_logps
from rlhf_plugins.engine.probing import layout_of
from rlhf_plugins.engine.sampling import Decoding, sample
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer, with_adapter, with_half_paths

LIMITS = {"float32": 1e-4, "frozen": 5e-2, "nf4": 5e-2, "int8": 0.3}  # relative norm, against own separate rows
SHORT = {"max_steps": 2, "per_device_train_batch_size": 8, "logging_steps": 1, "disable_tqdm": True}
ROLLOUT = {**SHORT, "num_generations": 4, "max_completion_length": 16}
SANDBOX = {"format": "sandbox", "prompts": 32, "test_prompts": 8, "responses": 4, "pairs": 2}
JUDGE = {"stage": "reward_model", "trainer": SHORT}
EVALUATE = {"stage": "evaluate", "prompts": 4, "best_of": 2, "ceiling": 2, "max_new_tokens": 8}
GROUPS: dict[str, list[dict[str, Any]]] = {
    "offline": [
        {"stage": "sft", "trainer": SHORT},
        JUDGE,
        {"stage": "preference", "name": "dpo", "trainer": SHORT},
        {"stage": "preference", "name": "ipo", "loss": "ipo", "trainer": SHORT},
        {"stage": "evaluate_reward"},
    ],
    "online": [
        JUDGE,
        {"stage": "online", "name": "ppo", "trainer": ROLLOUT},
        {"stage": "online", "name": "rloo", "advantage": "rloo", "trainer": ROLLOUT},
        {"stage": "online", "name": "grpo", "advantage": "grpo", "kl": "in_loss", "trainer": ROLLOUT},
        {"stage": "online", "name": "reinforce_plus_plus", "advantage": "reinforce_plus_plus", "trainer": ROLLOUT},
        EVALUATE,
    ],
    "critic of its own": [JUDGE, {"stage": "online", "value": {"adapter": {"r": 8}}, "trainer": ROLLOUT}],
    "ensemble": [{"stage": "reward_ensemble", "members": 2, "trainer": SHORT}, EVALUATE],
}
SETTINGS: dict[str, dict[str, Any]] = {
    "LoRA": {"adapter": {"r": 16}},
    "nf4": {"adapter": {"r": 16}, "quantization": "nf4"},
    "int8": {"adapter": {"r": 16}, "quantization": "int8"},
    "all weights": {"adapter": None},
}


# ---- layouts ---------------------------------------------------------------------------------------------
def layouts(lab: Lab) -> None:
    """Log-probabilities and LoRA gradients of every layout, precision and quantization, beside fp32 separate rows."""
    folder = random_model(lab.scratch / lab.header["shape"], lab.header["shape"], lab.device)
    groups, found = _ragged(lab.tiny), dict[str, list[Tensor]]()
    for name, quantization in (("float32", None), ("frozen", None), ("nf4", "nf4"), ("int8", "int8")):
        base, model = Base(str(folder), quantization, Adapter(r=16)), list[Any]()

        def load(base: Base = base, model: list[Any] = model, name: str = name) -> dict[str, Any]:
            loaded = load_causal(base)
            loaded = loaded.float() if name == "float32" else loaded
            model.append(_alike(with_adapter(loaded, base.adapter, "CAUSAL_LM")))
            return {"layout": layout_of(model[0]).value, "dtype": str(loaded.dtype)}

        if lab.point(f"load {name}", load) is None:
            continue
        for layout in (Layout.SEPARATE, Layout.ROWS, Layout.PACKED):
            lab.point(f"{name}, {layout.value}", partial(_compared, model[0], layout, groups, (name, found)))
        model.clear()
        lab.tidy()
    _windows(lab, groups)


def _windows(lab: Lab, groups: list[PromptBranches]) -> None:
    """The same of sliding windows, which packed rows and generation take; more tokens are there than a window shows."""
    folder = windowed_model(lab.scratch / "windows", 5 if lab.tiny else 64, lab.device)
    model = _alike(with_adapter(load_causal(Base(str(folder))), Adapter(r=16), "CAUSAL_LM"))
    found: dict[str, list[Tensor]] = {}

    def compared(layout: Layout) -> dict[str, Any]:
        chosen = layout_of(model).value
        return {"layout": chosen, **_compared(model, layout, groups, ("frozen", found))}

    for layout in (Layout.SEPARATE, Layout.PACKED):
        lab.point(f"sliding windows, {layout.value}", partial(compared, layout))
    lab.point("greedy tokens, sliding windows", partial(_greedy, folder))


def _ragged(tiny: bool) -> list[PromptBranches]:
    draw, scale = random.Random(0), 1 if tiny else 16

    def ids(most: int) -> list[int]:
        return [draw.randrange(5, 500) for _ in range(draw.randint(1, most * scale))]

    return [PromptBranches(ids(8), [ids(6) for _ in range(count)]) for count in (2, 2, 4)]


def _alike(model: Any) -> Any:
    """The model in training mode; its adapter gets the same random numbers whatever its device and base."""
    draw = torch.Generator().manual_seed(1)
    for name, weights in model.named_parameters():
        if "lora_" in name:
            weights.data.copy_(0.02 * torch.randn(weights.shape, generator=draw))
    return model.train()


def _compared(
    model: Any, layout: Layout, groups: list[PromptBranches], known: tuple[str, dict[str, list[Tensor]]]
) -> dict[str, Any]:
    """Relative errors of log-probabilities and gradients; the first of a model is what its others are compared with."""
    name, found = known
    trunk = trunk_of(model)
    inputs = {k: v.to(trunk.device) for k, v in collate(groups, 0, layout).items()}
    model.zero_grad()
    with made_for(trunk, layout):
        logps = response_logps(model, BranchBatch.from_inputs(inputs)).logps
        logps.sum().backward()
    gradients = [w.grad.flatten() for w in model.parameters() if w.grad is not None]
    both = [logps.detach().double().cpu(), torch.cat(gradients).double().cpu()]
    found.setdefault("float32", both)
    own = found.setdefault(name, both)
    errors = {
        f"{what} against {against}": float((mine - theirs).norm() / theirs.norm())
        for against, other in (("fp32", found["float32"]), ("own separate rows", own))
        for what, mine, theirs in zip(("logps", "gradients"), both, other, strict=True)
    }
    within = all(errors[f"{what} against own separate rows"] < LIMITS[name] for what in ("logps", "gradients"))
    return {**errors, "ok": within}


# ---- the engine's switch ---------------------------------------------------------------------------------
def engines(lab: Lab) -> None:
    """The same losses and greedy tokens with `engine: plain` and `engine: auto`."""
    folder = random_model(lab.scratch / lab.header["shape"], lab.header["shape"], lab.device)
    data = pairs_on_disk(lab.scratch / "engine_rows", 8, *((24, 8) if lab.tiny else (96, 32)))
    recipe = {"base": str(folder), "adapter": {"r": 16}, "data": data}
    lr = {"learning_rate": 1e-3, "max_steps": 3}
    for stage in ("preference", "reward_model"):
        lab.point(f"losses of {stage}", partial(_losses, lab, recipe, {"stage": stage, "trainer": {**SHORT, **lr}}))
    lab.point("greedy tokens, float32", partial(_greedy, folder))
    for config in (LlamaConfig, Gemma3TextConfig):
        for part in ("mlp", "input_layernorm"):
            lab.point(f"{part} of {config.model_type}", partial(_part, lab, config, part))
    lab.point("trials in half precision", partial(_trials, lab))


def _part(lab: Lab, config: Any, part: str) -> dict[str, Any]:
    """Errors of a part of a decoder layer in bf16, output and gradient relative to float64, and its time, both ways."""
    torch.manual_seed(0)
    width, inner, tokens = (32, 64, 16) if lab.tiny else (1024, 3072, 8192)
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_attention_heads": 4, "num_hidden_layers": 1}
    model = AutoModel.from_config(config(**sizes, num_key_value_heads=4, vocab_size=64), dtype=torch.bfloat16)
    plain = deepcopy(getattr(model.layers[0], part)).to(lab.device)
    ours = getattr(with_half_paths(model.to(lab.device)).layers[0], part)
    x = torch.randn(tokens, width, device=lab.device).bfloat16()
    exact = _outcome(deepcopy(plain).double(), x.double())
    found: dict[str, Any] = {"class": [each.__name__ for each in type(ours).__mro__[:2]]}
    for name, module in (("plain", plain), ("auto", ours)):
        outcome = _outcome(module, x)
        found[f"errors, {name}"] = [
            float((a.double() - b).norm() / b.norm()) for a, b in zip(outcome, exact, strict=True)
        ]
        lab.synchronize()
        began = time.perf_counter()
        for _ in range(1 if lab.tiny else 20):
            _outcome(module, x)
        lab.synchronize()
        found[f"ms, {name}"] = (time.perf_counter() - began) * (1000 if lab.tiny else 50)
    pairs = zip(found["errors, auto"], found["errors, plain"], strict=True)
    return {**found, "ok": all(mine <= 1.1 * own for mine, own in pairs)}


def _outcome(module: Any, x: Tensor) -> list[Tensor]:
    """The output and the gradient of the input."""
    x = x.clone().requires_grad_()
    output = module(x)
    return [output.detach(), *torch.autograd.grad(output, x, torch.ones_like(output))]


def _trials(lab: Lab) -> dict[str, Any]:
    """How many trials of each fast path in half precision passed, of those that ran so far; a CPU lacks kernels."""
    found = trials.results()
    passed = {what: f"{sum(each)} of {len(each)}" for what, each in found.items()}
    return {**passed, "ok": not lab.cuda or all(map(all, found.values()))}


def _losses(lab: Lab, recipe: Mapping[str, Any], stage: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, list[float]] = {}
    for engine in ("plain", "auto"):
        with Watch(lab.synchronize) as watch:
            whole = {**recipe, "engine": engine, "stages": [stage], "output_dir": str(lab.scratch / "engines")}
            run_recipe(whole, overwrite=True, say=_silent)
        found[engine] = watch.trainings[0].losses
    worst = max(abs(a - b) for a, b in zip(found["plain"], found["auto"], strict=True))
    return {**found, "largest_difference": worst, "ok": worst < (5e-2 if lab.cuda else 1e-3)}


def _greedy(folder: Path) -> dict[str, Any]:
    base, prompts = Base(str(folder)), [text(random.Random(i), 12) + " " for i in range(4)]
    found = {}
    for engine in ("plain", "auto"):
        with set_engine(engine):
            options = Decoding(max_new_tokens=16, temperature=0)
            found[engine] = sample(load_causal(base), load_tokenizer(base), prompts, 1, options).response_ids
    same = sum(a == b for a, b in zip(found["plain"], found["auto"], strict=True))
    return {"responses": len(prompts), "alike": same, "ok": same == len(prompts)}


# ---- stages ----------------------------------------------------------------------------------------------
def stages(lab: Lab) -> None:
    """Every stage end to end on the sandbox in every setting, then on a larger model; frozen weights stay the same."""
    settings = list(SETTINGS)[: 2 if lab.tiny else None]
    for setting in settings:
        for group in GROUPS if not lab.tiny or setting == "LoRA" else ("offline",):
            recipe = {"base": "sandbox", "data": SANDBOX, **SETTINGS[setting], "stages": GROUPS[group]}
            lab.point(f"{setting}, {group}", partial(_whole, lab, recipe))
    if lab.cuda:
        trainer = {"fp16": True, "bf16": False}
        for group in ("offline", "online"):
            half = [
                {**s, **({"trainer": {**s["trainer"], **trainer}} if "trainer" in s else {})} for s in GROUPS[group]
            ]
            recipe = {"base": "sandbox", "data": SANDBOX, **SETTINGS["LoRA"], "stages": half}
            lab.point(f"fp16, {group}", partial(_whole, lab, recipe))
    if not lab.tiny:
        folder = random_model(lab.scratch / lab.header["shape"], lab.header["shape"], lab.device)
        data = pairs_on_disk(lab.scratch / "stage_rows", 8, 96, 32)
        for setting in ("LoRA", "nf4"):
            recipe = {"base": str(folder), "data": data, **SETTINGS[setting]}
            recipe["stages"] = [JUDGE, *GROUPS["offline"][2:3], GROUPS["online"][1]]
            lab.point(f"{lab.header['shape']}, {setting}", partial(_whole, lab, recipe))


def _whole(lab: Lab, recipe: dict[str, Any]) -> dict[str, Any]:
    """What the trainings of a run did; a run that stops is recorded by its error, which names the stage."""
    with Watch(lab.synchronize, frozen=True) as watch:
        run_recipe({**recipe, "output_dir": str(lab.scratch / "stages")}, overwrite=True, say=_silent)
    changed = [name for training in watch.trainings for name in training.changed_frozen]
    still = sum(not training.moved for training in watch.trainings)
    found = {"trainings": len(watch.trainings), "trainings_that_changed_nothing": still, "changed_frozen": changed[:3]}
    return {**found, "ok": not changed and not still}


# ---- what is saved ---------------------------------------------------------------------------------------
def saved(lab: Lab) -> None:
    """Scores and log-probabilities right after training and reloaded; an export; a run that is resumed."""
    for setting in list(SETTINGS)[: 1 if lab.tiny else None]:
        with _trained(lab, SETTINGS[setting]) as (run, watch):
            if run is not None:
                lab.point(f"{setting}, reward model reloaded", partial(_reloaded_reward, run, watch[0]))
                lab.point(f"{setting}, policy reloaded", partial(_reloaded_policy, run, watch[1]))
                lab.point(f"{setting}, exported", partial(_exported, lab, run))
                lab.point(f"{setting}, resumed", partial(_resumed, lab, run))


@contextmanager
def _trained(lab: Lab, setting: Mapping[str, Any]) -> Iterator[tuple[Path | None, list[Any]]]:
    """The folder of a run of `reward` and `preference`, and the models as they were when trained."""
    folder, models = lab.scratch / "saved", list[Any]()
    stages = [JUDGE, {"stage": "preference", "trainer": {**SHORT, "learning_rate": 1e-3}}]
    recipe = {"base": "sandbox", "data": SANDBOX, **setting, "stages": stages, "output_dir": str(folder)}

    def work() -> dict[str, Any]:
        with Watch(lab.synchronize) as watch:
            run_recipe(recipe, overwrite=True, say=_silent)
        models.extend(training.trainer.model for training in watch.trainings)
        return {}

    done = lab.point("trained", work)
    yield (folder if done is not None else None), models
    models.clear()
    lab.tidy()


def _reloaded_reward(run: Path, model: Any) -> dict[str, Any]:
    path = Path(open_run(run).finished[0].rewards["reward_model"]["path"])
    opened = [load_reward_model(path) for _ in range(2)]
    samples = opened[0].encode(*_sentences(run))
    first, second = (each.predict(samples).reward for each in opened)
    trained = model.predict(samples, 0).reward.float().cpu()  # the sandbox pads with token 0
    return {"largest_difference": float((first - trained).abs().max()), "ok": torch.equal(first, second)}


def _reloaded_policy(run: Path, model: Any) -> dict[str, Any]:
    path = Path(open_run(run).finished[1].policies["preference"]["path"])
    policy = load_policy(path)
    samples = policy.encode(*_sentences(run))
    first, second = (each.log_probs(samples).float().cpu() for each in (policy, load_policy(path)))
    rows = [PromptBranches(p, [r]) for p, r in zip(samples.prompt_ids, samples.response_ids, strict=True)]
    inputs = {k: v.to(model.device) for k, v in collate(rows, 0, Layout.SEPARATE).items()}
    with torch.no_grad():
        trained = response_logps(model.eval(), BranchBatch.from_inputs(inputs)).logps.float().cpu()
    return {"largest_difference": float((first - trained).abs().max()), "ok": torch.equal(first, second)}


def _sentences(run: Path) -> tuple[list[str], list[str]]:
    """Prompts and responses of the sandbox."""
    from rlhf_plugins.sandbox import POLICY

    policy = load_policy(POLICY)
    prompts = ["how is the garden ?\n", "what is in the box ?\n"] * 4
    return prompts, list(policy.sample(prompts, max_new_tokens=12).responses)


def _exported(lab: Lab, run: Path) -> dict[str, Any]:
    out = lab.scratch / "exported"
    shutil.rmtree(out, ignore_errors=True)
    export_reward_model(open_run(run).finished[0].rewards["reward_model"]["path"], out)
    return {"files": sorted(file.name for file in out.iterdir())}


def _resumed(lab: Lab, run: Path) -> dict[str, Any]:
    """Whether the second stage, trained again from what the first left, has the same weights."""
    half = lab.scratch / "half"
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(run, half)
    (last,) = half.glob("02-*")
    shutil.rmtree(last)
    run_recipe(run / "recipe.yaml", [f"output_dir={half}"], resume=True, say=_silent)
    weights = next((run / last.name / "model").glob("*.safetensors")).relative_to(run)
    return {"byte_identical": (half / weights).read_bytes() == (run / weights).read_bytes()}


def _silent(_: str) -> None:
    """Prints nothing."""


SECTIONS = {"layouts": (layouts, 70.0), "engines": (engines, 40.0), "stages": (stages, 120.0), "saved": (saved, 60.0)}
