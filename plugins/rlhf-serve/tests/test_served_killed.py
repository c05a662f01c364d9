"""A run whose reward server is killed in the middle stops, says how to go on, and does so with a new server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import RunError, open_run, run_recipe
from rlhf_plugins.testing import tiny_base

SERVER = """\
import os, signal, sys, uvicorn
from rlhf_serve.app import app
from rlhf_serve.batches import Batches

port, name, answers = sys.argv[1:]
left = iter(range(int(answers)))

def score(prompts, responses, cut):
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return [float(len(response)) for response in responses]

uvicorn.run(app(Batches(score), name, "t"), port=int(port), log_level="error")
"""


@pytest.fixture
def start() -> Iterator[Callable[..., str]]:
    """Starts a server under a name, which kills itself after some answers; the next takes its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ExitStack() as ends:

        def started(name: str = "m", answers: int = 999) -> str:
            ends.close()
            process = ends.enter_context(
                subprocess.Popen([sys.executable, "-c", SERVER, f"{port}", name, f"{answers}"])
            )
            ends.callback(process.kill)
            until = time.monotonic() + 200
            while time.monotonic() < until:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        return f"http://127.0.0.1:{port}"
                time.sleep(0.05)
            raise AssertionError("the server does not listen")

        yield started


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Four steps of `online`, of a rollout and a checkpoint each, which ask again at once where the server is away."""
    retries = import_module("rlhf_plugins.reward_models.retries").Retries
    own = retries.__call__
    monkeypatch.setattr(retries, "__call__", lambda self, ask: own(replace(self, sleep=lambda _: None), ask))
    monkeypatch.setenv("RLHF_SERVE_TOKEN", "t")
    rows = [{"prompt": f"p{i} ", "chosen": "ant", "rejected": "gas"} for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = {"max_steps": 4, "logging_steps": 1, "per_device_train_batch_size": 8, "num_generations": 4}
    recipe = {
        **{"base": tiny_base(tmp_path / "base").path, "adapter": {"r": 2}, "output_dir": str(tmp_path / "run")},
        **{"data": {"format": "preference", "source": str(tmp_path / "pairs.jsonl")}},
        "checkpoint": {"every": "1 steps"},
    }

    def go(url: str, resume: bool = False) -> Any:
        stage = {"stage": "online", "reward": {"use": "served", "url": url}, "trainer": trainer}
        return run_recipe({**recipe, "stages": [stage]}, resume=resume, say=lambda _: None)

    return go


@pytest.mark.slow
def test_a_run_goes_on_with_a_new_server(start: Callable[..., str], run: Callable[..., Any], tmp_path: Path) -> None:
    stayed = r"the reward stayed unavailable after 8 of 8 attempts.*http://127.0.0.1.*ConnectError(.|\n)*--resume"
    with pytest.raises(RunError, match=stayed):
        run(start(answers=2))
    with pytest.raises(RunError, match="now serves 'other'; this run began with 'm'"):
        run(start("other"), resume=True)
    assert run(start(), resume=True).report.status == "finished"
    steps = [step for step, _ in open_run(tmp_path / "run").curves("online")["loss"].points]
    assert steps == [1, 2, 3, 4]
