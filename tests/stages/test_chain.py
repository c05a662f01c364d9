"""Stages that build on one another: where the second starts, and what its KL is measured to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from handed import folder_of
from marks import slow

from rlhf_plugins import Adapter, Run, RunError, StageResult, load_reward_model, session
from rlhf_plugins.engine.forward import trunk_of
from rlhf_plugins.engine.prompt_form import Prompted, noted_prompts
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

FEW = {"max_steps": 4, "learning_rate": 1e-2, "logging_steps": 1, "disable_tqdm": True}
IDS = torch.tensor([[15, 16, 3, 4, 5, 1]])


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    adapter = getattr(request, "param", Adapter(r=4))
    base = replace(tiny_base(tmp_path / "base"), adapter=adapter)
    return session(base, tiny_run(base, tmp_path / "rows", tiny_pairs(16)).data, tmp_path / "run")


def dpo(run: Run, name: str, **options: Any) -> StageResult:
    return run.train({"use": "preference", "trainer": FEW, **options}, name=name)


def losses(result: StageResult) -> list[float]:
    return [value for _, value in result.curves["loss"].points]


@pytest.mark.parametrize("run", [Adapter(r=4), *slow(None)], ids=["lora", "full"], indirect=True)
def test_dpo_after_dpo_goes_on_where_it_ended_and_is_measured_to_it(run: Run) -> None:
    first = dpo(run, "one")
    second = dpo(run, "two", **{"from": "one"})
    assert losses(first)[0] == pytest.approx(0.6931, abs=1e-3)
    assert losses(second)[0] == pytest.approx(0.6931, abs=1e-3)  # the reference moved along
    far = dpo(run, "far", **{"from": "one", "reference": "base"})
    assert losses(far)[0] < 0.95 * losses(first)[-1]
    assert (far.start, far.reference) == ("one", "base")


WORDS: dict[str, dict[str, Any]] = {
    "sft": {},
    "preference": {},
    "online": {"reward": "gold", "trainer": {**FEW, "per_device_train_batch_size": 8, "num_generations": 4}},
}
WORDS["online"]["trainer"] |= {"max_completion_length": 6}


def train(run: Run, use: str, name: str, **options: Any) -> StageResult:
    return run.train({"use": use, "trainer": FEW, **WORDS[use], **options}, name=name)


@pytest.mark.parametrize(
    "run", [Adapter(r=4), pytest.param(None, marks=pytest.mark.slow)], ids=["lora", "full"], indirect=True
)
def test_each_policy_hands_its_weights_to_the_next(run: Run) -> None:
    train(run, "sft", "sft")
    train(run, "preference", "dpo", **{"from": "sft"})
    train(run, "online", "ppo", **{"from": "dpo"})
    last = train(run, "preference", "ipo", loss="ipo", **{"from": "ppo", "reference": "sft"})
    ppo = train(run, "online", "again", **{"from": "ppo"})
    assert last.opened == ("ppo.policies.ppo", "sft.policies.sft")
    assert ppo.curves["kl"].points[0][1] == pytest.approx(0, abs=1e-6)
    assert train(run, "online", "far", **{"from": "ppo", "reference": "base"}).curves["kl"].points[0][1] > 0.01


@pytest.mark.parametrize("run", [Adapter(r=4), *slow(None)], ids=["lora", "full"], indirect=True)
def test_a_reward_model_starts_as_the_supervised_policy_does(run: Run) -> None:
    train(run, "sft", "sft", trainer={**FEW, "learning_rate": 1e-2})
    still = {"trainer": {**FEW, "learning_rate": 0.0}}
    made = {at: run.train({"use": "reward_model", "from": at, **still}, name=f"from_{at}") for at in ("base", "sft")}
    states = [load_reward_model(folder_of(each.rewards)).module.trunk(IDS)[0] for each in made.values()]  # type: ignore[union-attr]
    policy = run.policy("sft")
    with policy:
        own = trunk_of(policy.module)(IDS)[0]
    torch.testing.assert_close(states[1], own, rtol=1e-5, atol=1e-5)
    assert (states[0] - own).abs().max() > 0.01


def test_merged_weights_are_the_base_of_later_parts(run: Run) -> None:
    train(run, "sft", "sft")
    merged = run.train({"use": "merge", "from": "sft"}, name="merged")
    assert not list(folder_of(merged.policies).glob("adapter_*"))
    samples = run.policy("sft").encode(["how "], ["ant bee"])
    both = [run.policy(name).log_probs(samples) for name in ("sft", "merged")]
    torch.testing.assert_close(both[0], both[1], rtol=1e-5, atol=1e-5)
    after = dpo(run, "dpo", **{"from": "merged"})
    assert losses(after)[0] == pytest.approx(0.6931, abs=1e-3)
    with pytest.raises(RunError, match="merged is a whole model, so that there is no adapter to merge"):
        run.train({"use": "merge", "from": "merged"}, name="again")


@pytest.mark.slow
def test_parts_that_go_on_from_an_adapter_write_no_copy_of_the_base(run: Run) -> None:
    for round, start in enumerate((None, "r0", "r1")):
        run.train({"use": "preference", "trainer": FEW}, name=f"r{round}", start=start)
    assert not list(run.folder.rglob("model.safetensors"))
    assert not list(run.folder.rglob("ref"))


def test_a_run_goes_on_from_another_one(run: Run, tmp_path: Path) -> None:
    assert losses(dpo(run, "one"))[-1] < 0.6
    samples = run.policy("one").encode(["how "], ["ant bee"])
    expected = run.policy("one").log_probs(samples)
    for words in ("#one", "", "/one/model"):
        again = session(f"{run.folder}{words}", run.data, tmp_path / f"again{words[:2]}")
        torch.testing.assert_close(again.reference().log_probs(samples), expected)
    second = dpo(again, "two")
    assert losses(second)[0] == pytest.approx(0.6931, abs=1e-3)
    assert (second.start, second.reference) == ("base", "base")
    assert json.loads((folder_of(second.policies) / "policy.json").read_text())["base"]["path"] == run.base.path
    assert noted_prompts(folder_of(second.policies)) == Prompted(("text",), ("text",), "\n")
