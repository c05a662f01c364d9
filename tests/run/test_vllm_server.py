"""A policy whose responses a vLLM server generates: one process, and two; the server is a small one of the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from several import ONLINE, assert_same, prepared
from vllm_server import CLIENT, Server, serving
from warm import Warm

from rlhf_plugins.registry.discovery import DISABLED

RUN = 'import sys\nsys.argv = ["rlhf", "run", "r.yaml"]\nfrom rlhf_plugins.cli import main\nmain()\n'
SERVED = "max_steps: 6, use_vllm: true, vllm_mode: server, vllm_server_base_url: 'http://127.0.0.1:PORT'"


def trained(python: Warm, folder: Path, advantage: str, processes: int) -> Server:
    """The server that two rollouts asked."""
    recipe, size = ONLINE.replace("ADVANTAGE", advantage).replace("max_steps: 4", SERVED), 4 // processes
    with serving() as server:
        cwd = prepared(folder, recipe, BATCH=size, REWARDED=size, PORT=server.server_port)
        env = os.environ | {DISABLED: "lifecycle.report"}
        if processes == 1:
            found = [python("-c", CLIENT + RUN, cwd=cwd, env=env)]
        else:
            found = python.together("-c", CLIENT + RUN, cwd=cwd, env=env)
    assert {each.returncode for each in found} == {0}, "".join(each.stderr for each in found)
    return server


@pytest.mark.slow
@pytest.mark.parametrize("advantage", ["gae", "grpo"])
def test_two_processes_learn_from_what_a_server_answers_one(python: Warm, tmp_path: Path, advantage: str) -> None:
    """The main one asks for the prompts of both, once a rollout, and hands the policy's weights over before."""
    one, two = (trained(python, tmp_path / str(count), advantage, count) for count in (1, 2))
    assert [len(prompts) for prompts in two.asked] == [8, 8]
    assert two.asked == one.asked
    assert two.ends == one.ends
    assert len(two.weights) == 2
    for ours, theirs in zip(one.weights, two.weights, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4)
        assert not [name for name in theirs if "value" in name or "lora" in name]
    assert two.weights[0] != two.weights[1]
    assert_same(tmp_path / "1", tmp_path / "2", near=2e-5)
