"""The bundled recipe on word problems: GRPO raises the share of right answers, beyond its interval."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_plugins import run_recipe
from rlhf_plugins.report.schema import Report


@pytest.mark.slow  # two minutes on two CPU cores
def test_grpo_learns_to_work_problems_out(tmp_path: Path) -> None:
    folder = run_recipe("grpo_arithmetic", [f"output_dir={tmp_path / 'run'}"], say=lambda _: None).folder
    policies = Report.model_validate_json((folder / "report.json").read_text()).policies
    before, after = policies["base"], policies["grpo"]
    assert after.gain is not None
    assert after.gain.low > 0  # 95% interval of the paired difference in the share of right answers
    assert after.length > 1.15 * before.length  # it works out what it guessed
