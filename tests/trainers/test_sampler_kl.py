"""The KL from what sampled to what learns: nothing where both are one policy, and more where the sampler is rounded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_plugins.engine.cpu.folding import folded
from rlhf_plugins.engine.token_budget import room
from rlhf_plugins.trainers.ppo import rollout
from rlhf_plugins.trainers.ppo.options import Exploration, Objective

from .online_parts import Bases, curve, logged, objective, trainer
from .test_abstaining import every_third
from .test_turns import in_turns

AIMS = {
    "ppo": objective(),
    "exploration": objective(exploration=Exploration(0.3, 5.0)),
    "left out": objective(every_third, advantage="grpo"),
    "conversations": in_turns(),
}


@pytest.mark.parametrize("aim", AIMS.values(), ids=AIMS)
def test_a_policy_in_float32_is_what_samples(bases: Bases, tmp_path: Path, aim: Objective) -> None:
    """Generated in two calls, and learned from in other batches."""
    found = trainer(bases(), tmp_path, aim, temperature=0.8, max_steps=4)
    with room(None, cache=100):
        found.train()
    assert len(logged(found, "sampling/kl")) == 2
    assert max(logged(found, "sampling/sampling_logp_difference/max")) < 1e-4
    assert all(0 <= kl < 1e-10 for kl in logged(found, "sampling/kl"))


def test_a_sampler_of_rounded_weights_is_further_away(
    bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = curve(trainer(bases(), tmp_path / "exact", max_steps=4), "sampling/kl")
    monkeypatch.setattr(rollout, "folded", rounded)
    assert min(curve(trainer(bases(), tmp_path / "rounded", max_steps=4), "sampling/kl")) > 1e4 * max(exact)


@contextmanager
def rounded(model: Any) -> Iterator[None]:
    """For the block, weights are those of a copy in bfloat16."""
    with folded(model), torch.no_grad():
        kept = [(weight, weight.data) for weight in model.parameters()]
        for weight, data in kept:
            weight.data = data.bfloat16().float()
        yield
        for weight, data in kept:
            weight.data = data
