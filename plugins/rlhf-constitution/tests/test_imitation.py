"""The supervised loss on people's rows: its value, which response it takes, and what it changes in a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rlhf_constitution.imitation import Imitation, chosen, supervised
from torch import nn

from rlhf_plugins import Comparison, Group, Policy, RunError, component
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

PROMPTS, ANSWERS = ["how is the ant\n", "why\n"], ["bee cat dog", "elk"]


def per_token(policy: Policy) -> float:
    """The mean over people's answers of -log pi(y | x) / |y|."""
    samples = policy.encode(PROMPTS, ANSWERS)
    sums = policy.log_probs(samples).sum(1).tolist()
    return -sum(total / len(ids) for total, ids in zip(sums, samples.response_ids, strict=True)) / len(sums)


def people(folder: Path) -> dict[str, Any]:
    """A regularizer on a file of people's answers."""
    answers, other = [*zip(PROMPTS, ANSWERS, strict=True)], [("who\n", "fox")]
    for name, pairs in (("train", answers), ("test", other)):
        lines = [json.dumps({"prompt": prompt, "completion": answer}) + "\n" for prompt, answer in pairs]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    source = {"source": str(folder / "train.jsonl"), "test_source": str(folder / "test.jsonl")}
    return {"data": {"format": "supervised", **source}, "strength": 2.0}


def test_it_is_the_mean_loss_of_a_token_and_counts_its_calls(tmp_path: Path) -> None:
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run")
    policy = run.policy()
    assert supervised(policy.module, policy.encode(PROMPTS, ANSWERS)).item() == pytest.approx(per_token(policy))
    model = policy.module.requires_grad_(True)
    term = component("regularizer", "imitation", **people(tmp_path)).build(run, model)
    assert term().item() == pytest.approx(2 * per_token(policy))
    term.load_state_dict({"calls": 7})
    assert term.state_dict() == {"calls": 7}


def test_it_takes_what_people_chose() -> None:
    pair = Group("p", ("a", "b"), compared=(Comparison(1, 0),))
    tie = Group("q", ("a", "b"), compared=(Comparison(0, 1, tied=True),))
    assert chosen([pair, tie, Group("r", ("c",)), Group("s", ("d",), label=False)]) == [("p", "b"), ("r", "c")]


@pytest.mark.slow
def test_a_training_under_it_forgets_less_of_what_people_wrote(tmp_path: Path) -> None:
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run", tiny_pairs(32))
    trainer = {"max_steps": 4, "learning_rate": 1e-2, "disable_tqdm": True}
    losses = []
    for name, terms in (("free", []), ("held", [{"use": "imitation", **people(tmp_path)}])):
        stage = component("stage", "preference", trainer=trainer, regularizers=terms)
        made = run.train(stage, name=name)
        losses.append(per_token(run.open("generator", made.policies[name])))
    assert losses[1] < losses[0]


def test_what_is_no_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="imitation holds policies, not a Linear"):
        Imitation(data=component("data_format", "sandbox")).build(None, nn.Linear(2, 1))  # type: ignore[arg-type]
