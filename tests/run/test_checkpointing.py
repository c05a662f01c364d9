"""A stage that is killed goes on inside its training: afterwards every file and number is as if it never happened."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from killing import Killed, kill_at
from marks import slow

from rlhf_plugins import Adapter, Checkpoint, session
from rlhf_plugins.data.digests import of_folder
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.testing import tiny_base, tiny_run

PAIRS = {"max_steps": 7, "logging_steps": 2, "per_device_train_batch_size": 4, "disable_tqdm": True}
ROLLOUTS = {**PAIRS, "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6}
CYCLES = {**ROLLOUTS, "steps_per_generation": 2, "num_iterations": 2}
ACCUMULATED = {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 3}
EVALUATED = {"gradient_accumulation_steps": 3, "eval_strategy": "epoch", "load_best_model_at_end": True}
CHANGING = {"shaping": ["running", "missing_eos"], "kl": {"coef": 0.1, "adapt": {"target": 0.5, "horizon": 100}}}
STAGES: dict[str, tuple[dict[str, Any], int]] = {  # a stage, and the training step in which it is killed
    "sft": ({"use": "sft", "trainer": PAIRS}, 6),
    "preference": ({"use": "preference", "trainer": PAIRS}, 5),
    "preference, evaluated": (
        {
            "use": "preference",
            "early_stopping_patience": 9,
            "regularizers": ["l2_sp"],
            "trainer": {**PAIRS, **EVALUATED, "per_device_train_batch_size": 2},
        },
        17,
    ),
    "reward model": ({"use": "reward_model", "sampler": "hard_mining", "trainer": PAIRS}, 7),
    "ensemble": ({"use": "reward_ensemble", "members": 2, "trainer": {**PAIRS, "max_steps": 4}}, 7),
    "PPO": ({"use": "online", "reward": "gold", **CHANGING, "trainer": {**CYCLES, "max_steps": 11}}, 10),
    "own critic": (
        {"use": "online", "reward": "gold", "value": {"adapter": {"r": 2}}, "kl": "constraint", "trainer": CYCLES},
        4,
    ),
    "GRPO": ({"use": "online", "reward": "gold", "advantage": "grpo", "trainer": {**ROLLOUTS, **ACCUMULATED}}, 12),
}
KINDS = ("PPO", "preference", "reward model")  # of trainers; the other stages vary them


def trained(spec: dict[str, Any], folder: Path, every: str = "1 steps") -> None:
    """The stage on a tiny base, in a session that may have been killed before."""
    base = replace(tiny_base(folder.parent / "base"), adapter=Adapter(r=4))
    rows = tiny_run(base, folder.parent / "rows").data
    session(base, rows, folder, checkpoint=Checkpoint(every)).train(spec, name="part")


def result(folder: Path) -> dict[str, Any]:
    """What the stage left, but for its time and memory."""
    found: dict[str, Any] = json.loads((folder / "part" / "result.json").read_text())
    return {**found, "cost": {**found["cost"], "seconds": 0, "peak_bytes": 0}}


@pytest.mark.parametrize("name", [*KINDS, *slow(*(name for name in STAGES if name not in KINDS))])
def test_a_stage_goes_on_bit_for_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, step = STAGES[name]
    trained(spec, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(step, patch)
        with pytest.raises(Killed):
            trained(spec, tmp_path / "killed")
    assert [*(tmp_path / "killed" / "part" / "checkpoints").glob("*/*/checksums.json")]
    trained(spec, tmp_path / "killed")
    assert result(tmp_path / "killed") == result(tmp_path / "whole")
    one, two = (of_folder(tmp_path / which / "part") for which in ("whole", "killed"))
    assert one == two
    assert not (tmp_path / "killed" / "part" / "checkpoints").exists()


def test_a_torn_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, step = STAGES["preference"]
    trained(spec, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(step, patch)
        with pytest.raises(Killed):
            trained(spec, tmp_path / "torn")
    kept = sorted((tmp_path / "torn" / "part" / "checkpoints" / "000").iterdir())
    (kept[-1] / "tensors.safetensors").write_bytes(b"half")
    trained(spec, tmp_path / "torn")
    assert "part goes on from step 3\n" in capsys.readouterr().err
    where, why = "part/checkpoints/000/00000004 is torn", "(tensors.safetensors is not as it was written)"
    said = f"{where} {why}, so the one before is used"
    assert json.loads((tmp_path / "torn" / "status.json").read_text())["went_on"] == [said]
    assert ([path.name for path in kept], result(tmp_path / "torn")) == (
        ["00000003", "00000004"],
        result(tmp_path / "whole"),
    )


def test_checkpoints_that_a_kill_left_in_finished_stages_are_deleted(tmp_path: Path) -> None:
    stages = [tmp_path / name for name in ("01-sft", "02-loop/round-0", "02-loop")]
    for stage in stages:
        (stage / "checkpoints" / "000").mkdir(parents=True)
    for stage in stages[:2]:
        (stage / "result.json").write_text("{}")
    RunFolder(tmp_path).drop_checkpoints()
    assert [(stage / "checkpoints").exists() for stage in stages] == [False, False, True]


def test_an_interval_is_seconds_or_steps() -> None:
    assert [(one.seconds, one.steps) for one in map(Checkpoint, ("5 min", "2 h", "30 s"))] == [
        (300, 0),
        (7200, 0),
        (30, 0),
    ]
    assert (Checkpoint("100 steps").seconds, Checkpoint("100 steps").steps) == (0, 100)
    for wrong in ("soon", "5", "0 s", "-1 s", "1.5 h", "5 days"):
        with pytest.raises(ValueError, match=r"is no interval; write one such as `5 min`, `30 s` or `100 steps`"):
            Checkpoint(wrong)
