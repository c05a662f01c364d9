"""The length-free reward: its penalty by hand, and that a reward model of biased annotators no longer likes length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rlhf_watch.length_free.two_heads import correlation

from rlhf_plugins import Prediction, RankedScores, RunError, component, load_reward_model, run_recipe
from rlhf_plugins.testing import tiny_base


def scores(**ratings: Any) -> RankedScores:
    rewards, longer = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    return RankedScores.of(rewards, ratings=ratings, prediction=Prediction(rewards, dimensions={"length": longer}))


def test_the_penalty_by_hand() -> None:
    found = component("reward_loss", "length_free", correlation=2.0)(
        scores(length=torch.tensor([[4.0, 3.0], [2.0, 1.0]]))
    )
    # r + l is [2, 1] and [2, 5]; rho(r, L) = -1, rho(l, L) = 0
    plain = -torch.nn.functional.logsigmoid(torch.tensor([1.0, -3.0]))
    torch.testing.assert_close(found, plain + 2.0)
    assert correlation(torch.ones(3), torch.arange(3.0)) == 0


def test_without_lengths_it_says_what_it_needs() -> None:
    with pytest.raises(RunError, match="head: two_heads.*with_lengths"):
        component("reward_loss", "length_free")(scores())


def train(folder: Path, name: str, **options: Any) -> float:
    """The correlation of rewards with length, of annotators who mostly like the longer response."""
    trainer = {"max_steps": 25, "learning_rate": 3e-3, "per_device_train_batch_size": 32}
    rows = {"format": "preference", "source": str(folder / "pairs.jsonl")}
    recipe = {"base": str(folder / "base"), "adapter": "none", "output_dir": str(folder / name), "seed": 1}
    recipe["data"] = {"format": "with_lengths", "rows": rows}
    run_recipe({**recipe, "stages": [{"stage": "reward_model", "trainer": trainer, **options}]})
    judge = load_reward_model(folder / name)
    texts = [" ".join(["bee", "cat", "dog"] * 5)[: 4 * size - 1] for size in range(1, 14)]
    rewards = judge.predict(judge.encode(["who\n"] * len(texts), texts)).reward
    return float(correlation(rewards, torch.arange(float(len(texts)))))


@pytest.mark.slow
def test_a_reward_no_longer_goes_with_length(tmp_path: Path) -> None:
    tiny_base(tmp_path / "base")
    rng, lines = np.random.default_rng(0), []
    for _ in range(256):
        short, long = (
            " ".join(rng.choice(["bee", "cat", "dog", "fox"], size))
            for size in (rng.integers(1, 6), rng.integers(7, 13))
        )
        lines.append(json.dumps({"prompt": "who\n", "chosen": long, "rejected": short}) + "\n")
    (tmp_path / "pairs.jsonl").write_text("".join(lines))
    biased = train(tmp_path, "biased")
    free = train(tmp_path, "free", head="two_heads", loss={"use": "length_free", "correlation": 4.0})
    assert biased > 0.8
    assert abs(free) < 0.6
