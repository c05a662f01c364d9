"""A script of TRL's RewardTrainer with one import changed: the same numbers and files; where TRL errs, ours do not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import trl
from datasets import Dataset
from safetensors.torch import load_file

from rlhf_plugins import RewardTrainer, component
from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.groups import preference_dataset
from rlhf_plugins.engine.loading import load_tokenizer
from rlhf_plugins.testing import tiny_pairs, tiny_run
from rlhf_plugins.trainers.arguments import arguments

from .conftest import OPTIONS, furthest, losses, trained

Bases = Callable[..., Base]
Rows = Sequence[dict[str, Any]]
PAIRS = tiny_pairs(24)
TEXTS: Rows = list(preference_dataset(PAIRS))
KINDS = [trl.RewardTrainer, RewardTrainer]


def script(kind: Any, base: Base, folder: Path, rows: Any = TEXTS, **given: Any) -> Any:
    """What a user's script makes; `args` holds options of the configuration, all else goes to the trainer."""
    args = arguments(trl.RewardConfig, folder, 0, {**OPTIONS, **given.pop("args", {})})
    data = Dataset.from_list(rows) if isinstance(rows, list) else rows
    given = {"model": base.path, "processing_class": load_tokenizer(base), **given}
    return kind(given.pop("model"), args, train_dataset=data, **given)


def logged(trainer: Any) -> list[dict[str, float]]:
    """The numbers of every log, without times and FLOPs, which are of the tokens as they are laid out."""
    left_out = re.compile("runtime|per_second|flos")
    return [{k: v for k, v in entry.items() if not left_out.search(k)} for entry in trainer.state.log_history]


def test_the_constructor_is_trls_with_ours_behind() -> None:
    theirs, ours = list(signature(trl.RewardTrainer).parameters.values()), signature(RewardTrainer).parameters
    assert list(ours.values())[: len(theirs)] == theirs
    assert list(ours)[len(theirs) :][:4] == ["loss", "head", "pooling", "sampler"]


def test_a_script_trains_and_logs_as_with_trl(bases: Bases, tmp_path: Path) -> None:
    stock, ours = (script(kind, bases(), tmp_path / kind.__module__) for kind in KINDS)
    assert losses(ours) == pytest.approx(losses(stock), rel=1e-5, abs=1e-6)
    assert furthest(trained(ours), trained(stock)) < 1e-4
    assert [pytest.approx(entry, rel=1e-3, abs=1e-5) for entry in logged(stock)] == logged(ours)


def test_a_checkpoint_has_the_files_and_weights_of_trls(bases: Bases, tmp_path: Path) -> None:
    found = []
    for kind in KINDS:
        trainer = script(kind, bases(), tmp_path / kind.__module__, args={"save_strategy": "steps", "save_steps": 5})
        trainer.train()
        found.append(tmp_path / kind.__module__ / "checkpoint-5")
    names = [sorted(file.name for file in folder.iterdir()) for folder in found]
    assert names[0] == names[1]
    stock, ours = (load_file(folder / "model.safetensors") for folder in found)
    assert furthest(ours, stock) < 1e-4
    assert json.loads((found[0] / "config.json").read_text()) == json.loads((found[1] / "config.json").read_text())


def test_a_recipe_trains_as_a_script_that_asks_for_its_head_and_sampler(bases: Bases, tmp_path: Path) -> None:
    options = {name: value for name, value in OPTIONS.items() if name != "disable_tqdm"}
    own = {"head": component("reward_head", "scalar"), "sampler": component("sampler", "shuffled")}
    ours = script(RewardTrainer, bases(), tmp_path / "script", **own)
    stage = component("stage", "reward_model", trainer=options)
    result = stage.run(tiny_run(bases(), tmp_path / "stage", PAIRS))
    assert losses(ours) == pytest.approx([value for _, value in result.curves["loss"].points], rel=1e-5)
