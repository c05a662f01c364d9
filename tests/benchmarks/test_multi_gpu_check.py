"""The check of a machine with several GPUs runs with two gloo processes too, so that it is ready where there is one."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

SCRIPT = str(Path(__file__).parents[2] / "benchmarks" / "multi_gpu_check.py")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_on_a_cpu_pass_the_check(tmp_path: Path) -> None:
    words = [sys.executable, SCRIPT, "--processes", "2", "--steps", "4", "--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "all as it should be" in done.stdout
    for way in ("zero2", "zero3") if find_spec("deepspeed") else ():
        assert f"{way}: sft, reward_model, dpo, ipo are compared" in done.stdout


def left(folder: Path, loss: float, weight: float | None) -> Path:
    """What a run of one stage leaves; without a weight, no model."""
    run = folder / "runs/r"
    (run / "01-sft/model").mkdir(parents=True)
    (run / "metrics.jsonl").write_text(json.dumps({"stage": "sft", "step": 1, "loss": loss}) + "\n")
    if weight is not None:
        save_file({"w": torch.tensor([4.0, weight])}, run / "01-sft/model/adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("loss", "weight", "faults"),
    [
        (0.5, 2.0, []),
        (0.51, 2.0, ["several: ('sft', 1, 'loss'): 0.5 in one process, 0.51 in several"]),
        (0.5, 2.4, ["several: sft: weights differ, by 1.0e-01 of the largest"]),
        (0.5, None, ["several: sft: weights differ, by inf of the largest"]),
    ],
)
def test_other_numbers_and_other_weights_are_faults(
    tmp_path: Path, loss: float, weight: float | None, faults: list[str]
) -> None:
    one, several = left(tmp_path / "one", 0.5, 2.0), left(tmp_path / "several", loss, weight)
    assert list(runpy.run_path(SCRIPT)["_differences"](one, several, ("sft",))) == faults
