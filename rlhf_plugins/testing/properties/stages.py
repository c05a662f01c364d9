"""Properties of a stage that runs, however little it has to train on."""

from __future__ import annotations

import tempfile
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from rlhf_plugins.contract.run import StageResult
from rlhf_plugins.recipe.options import options
from rlhf_plugins.recipe.trainer import config_options
from rlhf_plugins.testing.conformance import holds_of
from rlhf_plugins.testing.properties.runs import run_with_reward
from rlhf_plugins.testing.properties.training import ROLLOUTS, tiny_adapted, varied_pairs
from rlhf_plugins.testing.subject import Subject, expect


@holds_of("stage", trains=True)
def a_result_is_returned(subject: Subject) -> None:
    """What a stage does not hand on in a StageResult is lost: the run ends with an error once all is trained."""
    from rlhf_plugins.testing.tiny import tiny_run

    finished = run_with_reward().finished
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        run = tiny_run(tiny_adapted(), Path(folder) / "run", varied_pairs(), finished)
        try:
            answer = subject.made(**_short(subject)).run(run)
        except Exception:  # it needs what a run of its own has, such as an earlier stage
            return
    expect(isinstance(answer, StageResult), "its `run` on a few rows", "a StageResult", f"a {type(answer).__name__}")


def _short(subject: Subject) -> dict[str, Any]:
    """Options of a training of one step, where the stage has a block of them."""
    few = {**ROLLOUTS, "max_steps": 1}
    return {
        option.name: {name: few[name] for name in few.keys() & config_options(option.config).keys()}
        for option in options(subject.cls).values()
        if option.config
    }
