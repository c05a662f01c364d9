"""The online stage with reward models of earlier stages: what is in memory while it trains, by count."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from marks import slow

from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Adapter, Base, Run
from rlhf_plugins.contract.run_kinds import Reward, RewardFunction
from rlhf_plugins.engine.weights import loading
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base

from .test_training_stages import online, preference, reward, run_for


@dataclass(frozen=True)
class Counted(Reward):
    """Another reward, and how many copies of the base live in the process whenever it is asked."""

    reward: Reward
    copies: list[int]

    def build(self, run: Run) -> RewardFunction:
        score = self.reward.build(run)

        def counted(samples: Samples) -> Any:
            gc.collect()
            self.copies.append(sum(type(thing).__name__ == "LlamaModel" for thing in gc.get_objects()))
            return score(samples)

        return counted


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [(Adapter(r=4), 1), *slow((None, 4))],  # in full: the policy, its reference and two reward models
    ids=["lora", "full"],
)
def test_two_reward_models_and_the_policy_hold_one_base(tmp_path: Path, adapter: Adapter | None, expected: int) -> None:
    base: Base = replace(tiny_base(tmp_path / "base"), adapter=adapter)
    first, second = (
        replace(reward(), name=name).run(run_for(base, tmp_path / name)) for name in ("helpful", "harmless")
    )
    both = [{"use": "model", "stage": "helpful"}, {"use": "model", "stage": "harmless"}]
    counted = Counted(component("reward", {"use": "weighted", "parts": both}), [])
    replace(online(), reward=counted).run(run_for(base, tmp_path / "ppo", first, second))
    assert set(counted.copies) == {expected}


def test_an_evaluation_loads_one_base_for_policies_reference_and_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base: Base = replace(tiny_base(tmp_path / "base"), adapter=Adapter(r=4))
    finished = [made().run(run_for(base, tmp_path / made.__name__)) for made in (reward, preference, online)]
    loads, own = list[str](), loading._load
    monkeypatch.setattr(loading, "_load", lambda cls, base: loads.append(base.path) or own(cls, base))
    words = {"use": "evaluate", "reward": "model", "best_of": 2, "prompts": 4, "max_new_tokens": 4}
    run = run_for(base, tmp_path / "evaluate", *finished)
    found = component("stage", words).run(run)
    assert set(found.report.policies) == {"base", "best-of-2", "preference", "online"}
    assert loads == [base.path]


def held() -> int:
    """Bytes of all tensors that live in the process, each storage counted once."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def test_ppo_on_a_4_bit_base_holds_at_most_a_quarter_more_than_dpo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and optimizer of policy, reference, reward model and value, against DPO's policy and reference."""
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "head_dim": 64, "num_attention_heads": 8}
    base = replace(tiny_base(tmp_path / "base", **sizes), quantization="nf4", adapter=Adapter(r=16))
    judge = reward(max_steps=1).run(run_for(base, tmp_path / "reward"))
    before, found, train = held(), [], transformers.Trainer.train

    def counted(trainer: Any, *args: Any, **options: Any) -> Any:
        output = train(trainer, *args, **options)
        found.append(held() - before)
        return output

    monkeypatch.setattr(transformers.Trainer, "train", counted)
    preference(max_steps=1).run(run_for(base, tmp_path / "dpo"))
    online("model", max_steps=1).run(run_for(base, tmp_path / "ppo", judge))
    dpo, ppo = found
    adapter = sum(path.stat().st_size for path in (tmp_path / "reward").rglob("adapter_model.safetensors"))
    assert dpo > 3 * adapter  # weights, and two moments of the optimizer
    assert 1.0 < ppo / dpo <= 1.25
