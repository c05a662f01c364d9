"""The model can say the four answers and nothing else, begins at the reference, and what was trained is not again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rlhf_bench import trained
from rlhf_bench.exact import REFERENCE, REWARDS, kl, optimal
from rlhf_bench.trained import ANSWERS, PROMPT, WEIGHTS, Place, answers, base, reward, rows, section
from transformers import AutoModelForCausalLM

from rlhf_plugins import Run, session


def row(algorithm: str, policy: list[float], beta: float = 1.0) -> dict[str, Any]:
    reference, rewards = (torch.tensor(x, dtype=torch.float64) for x in (REFERENCE, REWARDS))
    star = optimal(reference.log(), rewards, beta)
    far = kl(torch.tensor(policy, dtype=torch.float64).log(), star)
    return {"algorithm": algorithm, "beta": beta, "seed": 1, "policy": policy, "kl": far}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return session(base(tmp_path / "base", 3), rows(), tmp_path / "run")


def test_the_answers_are_all_that_can_be_said_and_begin_at_the_reference(run: Run, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert model.config.vocab_size == len(ANSWERS)
    assert sum(weights.numel() for weights in model.parameters()) == WEIGHTS
    with run.policy() as policy:
        found = answers(policy).exp()
        samples = policy.sample([PROMPT] * 32, max_new_tokens=1, seed=0)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-12)
    assert found.tolist() == pytest.approx(REFERENCE, abs=1e-6)
    assert {len(ids) for ids in samples.response_ids} == {1}  # also the end alone
    assert set(reward(list(samples.responses))) <= set(REWARDS)


def test_a_row_is_a_prompt_and_one_token_and_the_probabilities_of_its_answers_are_those_that_are_read(run: Run) -> None:
    with run.policy() as policy:
        written = policy.encode([PROMPT] * 4, ANSWERS)
        assert [list(ids) for ids in written.response_ids] == [[0], [1], [2], [3]]
        assert policy.log_probs(written).exp().sum(1).tolist() == pytest.approx(REFERENCE, abs=1e-6)
        assert float(policy.log_probs(written).exp().sum()) == pytest.approx(1.0, abs=1e-6)


def test_every_pair_has_its_true_probability() -> None:
    first, *others = rows().train
    assert (len(others), first.responses) == (5, (ANSWERS[0], ANSWERS[1]))
    assert first.comparisons[0].probability == pytest.approx(0.268941, abs=1e-6)  # sigmoid(0 - 1)
    assert reward(["ant", " cat", ""]) == [0.0, 0.5, 2.0]


def test_the_page_says_which_trainings_reach_the_least_of_their_loss() -> None:
    """At beta 1, pi* is (.4, .3 e, .2 e^.5, .1 e^2) / 2.28414."""
    star = [0.175121, 0.357021, 0.144363, 0.323495]
    said = "\n".join(section([row("dpo", star), row("ppo", list(REFERENCE))]))
    assert "| 1 | DPO | 0.1751 0.3570 0.1444 0.3235 | 0.0000 | 0.0000 | 0.0000 |" in said
    assert "whatever beta and seed: DPO.\nFurther from it at least once, with the largest KL: PPO (" in said
    assert "| IPO |" not in said


def test_what_has_a_row_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Place] = []
    monkeypatch.setattr(trained, "measured", lambda place, folder: ran.append(place) or {**place._asdict()})
    file = tmp_path / "trained.json"
    monkeypatch.setattr(sys, "argv", ["trained", str(file), str(tmp_path)])
    trained.main()
    assert len(set(ran)) == len(ran) == 27
    kept = json.loads(file.read_text())["rows"]
    file.write_text(json.dumps({"rows": kept[1:]}))
    ran.clear()
    trained.main()
    assert ran == [("dpo", 0.25, 1)]


@pytest.mark.slow
def test_a_training_reaches_pi_star(tmp_path: Path) -> None:
    found = trained.measured(Place("dpo", 0.5, 1), tmp_path)
    assert sum(found["policy"]) == pytest.approx(1.0, abs=1e-5)
    assert found["kl"] == pytest.approx(0.0, abs=1e-4)
