"""A policy whose responses vLLM generates: one process, and two; in its place there is a small server, or a class."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from several import ONLINE, assert_same, logged, prepared
from vllm_beside import BESIDE
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
    assert len(differences(tmp_path / "2")) == 2


def differences(folder: Path) -> list[float]:
    """From what the policy says of each token, in each rollout."""
    return [each[DIFFERENCE] for each in logged(folder) if DIFFERENCE in each]


DIFFERENCE = "sampling/sampling_logp_difference/mean"
SHARED = "max_steps: 6, use_vllm: true, vllm_mode: colocate"


def beside(python: Warm, folder: Path, advantage: str, processes: int) -> list[dict[str, Any]]:
    """What the model of each process was asked and given in two rollouts."""
    recipe, size = ONLINE.replace("ADVANTAGE", advantage).replace("max_steps: 4", SHARED), 4 // processes
    cwd = prepared(folder, recipe, BATCH=size, REWARDED=size)
    env = os.environ | {DISABLED: "lifecycle.report"}
    run = python if processes == 1 else python.together
    found: Any = run("-c", BESIDE + RUN, cwd=cwd, env=env)
    ended = [found] if processes == 1 else found
    assert {each.returncode for each in ended} == {0}, "".join(each.stderr for each in ended)
    return [json.loads(file.read_text()) for file in sorted(cwd.glob("vllm-*.json"))]


@pytest.mark.slow
@pytest.mark.parametrize("advantage", ["gae", "grpo"])
def test_processes_that_share_their_gpus_with_vllm_learn_as_from_a_server(
    python: Warm, tmp_path: Path, advantage: str
) -> None:
    """Each asks its own for its share of the prompts, and hands it the policy's weights before."""
    server = trained(python, tmp_path / "server", advantage, 1)
    (one,) = beside(python, tmp_path / "one", advantage, 1)
    two = beside(python, tmp_path / "two", advantage, 2)
    assert [prompts[::2] for prompts in one["asked"]] == server.asked
    assert [sum(parts, []) for parts in zip(*(each["asked"] for each in two), strict=True)] == one["asked"]
    for each in (one, *two):
        assert each["ends"] == server.ends
        assert len(each["weights"]) == len(server.weights)
        for ours, theirs in zip(each["weights"], server.weights, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
    assert_same(tmp_path / "server", tmp_path / "one", near=2e-5)
    assert_same(tmp_path / "one", tmp_path / "two", near=2e-5)
