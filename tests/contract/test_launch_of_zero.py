"""What a launch may ask of DeepSpeed, in accelerate's options and in a file of DeepSpeed's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import RunError
from rlhf_plugins.contract import zero
from rlhf_plugins.contract.zero import Zero, asked_of_zero

AUTO = {  # as DeepSpeed's users write it
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    "zero_optimization": {"stage": 3, "overlap_comm": True, "stage3_param_persistence_threshold": "auto"},
}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero, "find_spec", lambda name: object())


def file(folder: Path, **sections: Any) -> dict[str, Any]:
    """The options of a launch that names a file with these sections beside the usual ones."""
    (folder / "ds.json").write_text(json.dumps(AUTO | sections))
    return {zero.CONFIG_FILE: str(folder / "ds.json")}


def test_a_file_says_the_stage_and_the_precision(tmp_path: Path) -> None:
    assert asked_of_zero(file(tmp_path), True) == Zero("3", "no")
    given = file(tmp_path, zero_optimization={"stage": 1}, bf16={"enabled": True})
    assert asked_of_zero(given, True) == Zero("1", "bf16")


def test_numbers_that_a_file_leaves_out_are_the_recipes(tmp_path: Path) -> None:
    """DeepSpeed would clip nothing, accelerate would accumulate nothing, and neither knows a batch."""
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 2}, "train_batch_size": 8}))
    found = asked_of_zero({zero.CONFIG_FILE: str(tmp_path / "ds.json")}, True)
    assert found.left_out == ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")


def test_options_of_accelerate_say_the_stage() -> None:
    assert asked_of_zero({"zero_stage": 3, "offload_param_device": "none"}, True) == Zero("3")
    assert asked_of_zero({}, True) == Zero("2")  # accelerate's own


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"optimizer": {"type": "AdamW"}}, "optimizer: is the recipe's: remove it, and write trainer: {optim: ...}"),
        ({"scheduler": {}}, "scheduler: is the recipe's: remove it, and write trainer: {lr_scheduler_type: ...}"),
        ({zero.OWN_ADAM: True}, "zero_force_ds_cpu_optimizer: the recipe's optimizer steps on the CPU: write false"),
        ({"amp": {"enabled": True}}, "amp: was not tried with any recipe: remove it"),
        ({"zero_optimization": {"stage": 0}}, "zero_stage: 0, with which no recipe was tried"),
        (
            {"zero_optimization": {"stage": 2, "zero_hpz_partition_size": 8}},
            "zero_optimization.zero_hpz_partition_size: was not tried",
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme"}}},
            "offload_optimizer_device: nvme, with which no recipe was tried",
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}},
            "offload_param_device, which is of ZeRO-3, and for ZeRO-2: write none",
        ),
        (
            {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 10}},
            "what is written into a weight that persists would be lost: write 0",
        ),
        ({"bf16": {"enabled": 1}}, "bf16.enabled: 1: write true, false or auto"),
        ({"bf16": True}, "bf16: was not tried with any recipe: remove it"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu", "ratio": 0.3}}},
            "zero_optimization.offload_optimizer.ratio: was not tried with any recipe",
        ),
        ({"zero_optimization": []}, "no configuration of DeepSpeed with a section zero_optimization"),
    ],
)
def test_a_file_that_asks_for_what_was_not_tried_is_refused(
    tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    given = file(tmp_path, **sections)
    with pytest.raises(RunError) as caught:
        asked_of_zero(given, True)
    assert message in str(caught.value)
    assert str(tmp_path / "ds.json") in str(caught.value)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text("{")
    for name in ("ds.json", "none.json"):
        with pytest.raises(RunError, match=rf"{name}: no configuration of DeepSpeed, which is a file of JSON"):
            asked_of_zero({zero.CONFIG_FILE: str(tmp_path / name)}, True)


def test_what_accelerate_reads_in_the_file_alone_is_refused_beside_it(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="accelerate reads no gradient_clipping beside it: remove gradient_clipping"):
        asked_of_zero({**file(tmp_path), "gradient_clipping": 1.0}, True)


def test_deepspeed_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"DeepSpeed, which is missing: pip install 'rlhf-plugins\[deepspeed\]'"):
        asked_of_zero({"zero_stage": 2}, True)
