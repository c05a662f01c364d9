"""A finished run of random weights: `sft` (a whole model), `dpo` (an adapter on it), `judge` (a reward model)."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from rlhf_plugins.contract.run import Adapter, Base, Evaluation, StageResult
from rlhf_plugins.engine.policy import describe
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer, load_trunk, with_adapter
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.report import hardware, versions
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.testing import tiny_base

STAGES: list[dict[str, Any]] = [
    {"stage": "sft", "name": "sft", "trainer": {"max_steps": 2}},
    {"stage": "preference", "name": "dpo", "loss": {"use": "dpo", "beta": 0.1}, "trainer": {}},
    {"stage": "reward_model", "name": "judge", "loss": {"use": "bradley_terry"}, "trainer": {}},
    {"stage": "evaluate", "name": "evaluate"},
    {"stage": "online", "name": "late"},
]
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% if m['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}"
ADAPTER = Adapter(r=4, lora_alpha=8)


def finished_run(
    folder: Path, chat: bool = False, adapter: Adapter = ADAPTER, on_base: bool = False, **config: Any
) -> RunFolder:
    """The run in `folder`; its base is `base` beside it.

    Args:
        folder: where to.
        chat: give the base a chat template.
        adapter: of `dpo`.
        on_base: train `dpo` on the base, not on what `sft` made.
        config: of the base's architecture.
    """
    base = replace(tiny_base(folder.parent / "base", **config), adapter=adapter)
    if chat:
        tokenizer = AutoTokenizer.from_pretrained(base.path)
        tokenizer.chat_template = TEMPLATE
        tokenizer.save_pretrained(base.path)
    run = RunFolder(folder)
    surroundings: dict[str, Any] = {"started": "2026-01-01T00:00:00+00:00", "versions": versions(), "plugins": []}
    surroundings["hardware"] = hardware().model_dump()
    data = {"train": 8, "test": 4, "dropped": {}, "digest": folder.name}
    recipe = {"base": base.path, "adapter": asdict(adapter), "quantization": "none", "seed": 0, "stages": STAGES}
    recipe["data"] = {"format": "preference", "source": "pairs.jsonl"}
    run.start(recipe, {"status": "finished", "data": data, **surroundings})
    torch.manual_seed(7)
    whole = _sft(run, base)
    _dpo(run, base if on_base else replace(base, path=str(whole)))
    _judge(run, replace(base, path=str(whole)))
    _evaluate(run)
    return run


def _sft(run: RunFolder, base: Base) -> Path:
    stage = run.fresh_stage(0, "sft")
    model = load_causal(base)
    for weights in model.parameters():
        weights.data += 0.02 * torch.randn_like(weights)
    model.save_pretrained(stage / "model")
    load_tokenizer(base).save_pretrained(stage / "model")
    describe(stage / "model", base, run.path)
    spec = {"use": "trained", "path": str(stage / "model"), "base": base.path}
    run.save(stage, StageResult({"sft": spec}, base=stage / "model", name="sft", stage="sft"))
    return stage / "model"


def _dpo(run: RunFolder, base: Base) -> None:
    stage = run.fresh_stage(1, "dpo")
    model = with_adapter(load_causal(base), base.adapter, "CAUSAL_LM")
    for weights in filter(lambda w: w.requires_grad, model.parameters()):
        weights.data += 0.2 * torch.randn_like(weights)
    model.save_pretrained(stage / "model")
    load_tokenizer(base).save_pretrained(stage / "model")
    describe(stage / "model", base, run.path)
    spec = {"use": "trained", "path": str(stage / "model"), "base": base.path}
    run.save(stage, StageResult({"dpo": spec}, name="dpo", stage="preference"))


def _judge(run: RunFolder, base: Base) -> None:
    stage = run.fresh_stage(2, "judge")
    trunk = with_adapter(load_trunk(base), base.adapter, "FEATURE_EXTRACTION")
    model = RewardModel(trunk, component("pooling", "last_token"), component("reward_head", "scalar"))
    words = {name: value for name, value in asdict(base).items() if name != "trust_remote_code"}
    parts = {"pooling": {"use": "last_token"}, "head": {"use": "scalar"}}
    model.save(stage / "model", {"base": words, **parts})
    spec = {"use": "saved", "path": str(stage / "model")}
    run.save(stage, StageResult(rewards={"judge": spec}, name="judge", stage="reward_model"))


def _evaluate(run: RunFolder) -> None:
    stage = run.fresh_stage(3, "evaluate")
    scores = {"base": [0.0, 1.0, 0.0, 1.0], "dpo": [1.0, 2.0, 1.0, 2.5]}
    judged = Evaluation("gold reward", "base", ["how ", "why ", "who ", "what "], scores)
    run.save(stage, StageResult(evaluation=judged, name="evaluate", stage="evaluate"))
