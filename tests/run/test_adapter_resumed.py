"""A killed training of an adapter with more to learn than two matrices goes on bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from killing import Killed, kill_at

from rlhf_plugins import Adapter, Checkpoint, StageResult, component, session
from rlhf_plugins.data.digests import of_folder
from rlhf_plugins.testing import tiny_base, tiny_run

FEW = {"max_steps": 3, "logging_steps": 1, "disable_tqdm": True}


def trained(folder: Path, adapter: Adapter) -> StageResult:
    base = replace(tiny_base(folder.parent / "base"), adapter=adapter)
    run = session(base, tiny_run(base, folder.parent / "rows").data, folder, checkpoint=Checkpoint("1 steps"))
    return run.train(component("stage", "preference", trainer=FEW), name="part")


@pytest.mark.parametrize(
    "adapter", [Adapter(r=2, use_rslora=True, init_lora_weights="gaussian"), Adapter(r=2, use_dora=True)]
)
def test_it_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: Adapter) -> None:
    trained(tmp_path / "whole", adapter)
    with monkeypatch.context() as patch:
        kill_at(3, patch)
        with pytest.raises(Killed):
            trained(tmp_path / "killed", adapter)
    trained(tmp_path / "killed", adapter)
    assert of_folder(tmp_path / "killed" / "part") == of_folder(tmp_path / "whole" / "part")
