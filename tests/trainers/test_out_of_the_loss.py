"""Responses that are left out of the loss alone: those of equal groups, and those that were cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from handed import folder_of
from marks import slow
from torch import tensor
from transformers import set_seed

from rlhf_plugins import PluginError, Prediction, RunError
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run
from rlhf_plugins.trainers.ppo.options import Oversight, Table
from rlhf_plugins.trainers.ppo.oversight import warned_of_skips
from rlhf_plugins.trainers.ppo.scoring import ResponseRewards, equal_siblings, unlearned

from .conftest import furthest, trained
from .online_parts import Bases, curve, logged, objective, rolled_out, trainer
from .test_online_script import OURS, STOCK, injected, script

GROUP = tensor([4, 4, 4, 7, 7, 9])
SCORES = tensor([1.0, 1.0, 1.0, 2.0, 2.5, 0.0])
IN_LOSS = {"advantage": "grpo", "kl": {"use": "in_loss", "coef": 0.2}, "shaping": []}


def rewarded(by_token: bool = False) -> ResponseRewards:
    return ResponseRewards(range(6), SCORES, SCORES, torch.zeros(6, 2), by_token)


def test_a_response_is_left_out_for_one_reason() -> None:
    assert equal_siblings(SCORES, GROUP).tolist() == [True, True, True, False, False, True]
    cut = tensor([True, False, False, True, False, False])
    both = unlearned(rewarded(), GROUP, cut, keeps_equal=False)
    assert both["equal_siblings"].tolist() == [True, True, True, False, False, True]
    assert both["truncated"].tolist() == [False, False, False, True, False, False]
    assert unlearned(rewarded(), GROUP, cut, keeps_equal=True)["truncated"].tolist() == cut.tolist()
    assert unlearned(rewarded(), GROUP, None, keeps_equal=True) == {}
    assert unlearned(rewarded(by_token=True), GROUP, None, keeps_equal=False) == {}


def of_second_group(reward: float | None) -> Any:
    """This reward for all responses to the second prompt of a rollout, and others elsewhere."""

    def score(samples: Samples) -> list[float | None]:
        return [reward if i // 3 == 1 else float(i % 5) for i in range(len(samples.responses))]

    return score


@pytest.mark.parametrize("tokens", [None, 12], ids=["whole", "in micro-batches"])
@pytest.mark.parametrize("reduction", ["tokens", *slow("responses")])
def test_a_group_of_equal_rewards_weighs_as_one_without_rewards(
    bases: Bases, tmp_path: Path, reduction: str, tokens: int | None
) -> None:
    """No term of the loss reads it: neither KL nor entropy, nor a mean; only the numbers of the rollout do."""
    parts = {**IN_LOSS, "reduction": reduction}
    options = {"tokens_per_batch": tokens, "num_iterations": 2, "max_steps": 8}
    made = []
    for reward, keeps in ((9.0, False), (None, True), (9.0, True)):
        aim = objective(of_second_group(reward), keeps_equal=keeps, **parts)
        made.append(trainer(bases(), tmp_path, aim, **options))
        made[-1].train()
    dropped, absent, kept = made
    assert furthest(trained(dropped), trained(absent)) == 0
    assert furthest(trained(dropped), trained(kept)) > 1e-4
    for name in ("loss", "grad_norm", "approx_kl"):
        assert logged(dropped, name) == logged(absent, name), name
    assert logged(dropped, "equal_siblings") == [3.0, 3.0]
    assert dropped.unlearned == {"response out of the loss: all to the prompt score alike": 6}
    assert logged(dropped, "reward")[0] == logged(kept, "reward")[0] > logged(absent, "reward")[0]


def test_the_table_says_what_was_learned_from_each_response(bases: Bases, tmp_path: Path) -> None:
    """Rewards are 0 1 2, 9 9 9, 1 2 3 and 4 0 1; each token of a response has the advantage (r - mean) / deviation."""

    def score(samples: Samples) -> Prediction:
        total = tensor(of_second_group(9.0)(samples))
        return Prediction(total, dimensions={"half": total / 2})

    keeping = Oversight(Table(every=1, rows=4))
    aim = objective(score, keeps_equal=False, **IN_LOSS)
    found = trainer(bases(), tmp_path, aim, max_steps=2, oversight=keeping)
    found.train()
    first, second, third, fourth = found.rollouts_shown[:4]
    assert [row["reward"] for row in (first, second, third, fourth)] == [0.0, 9.0, 1.0, 4.0]
    assert second["left_out"] == "equal_siblings"
    assert first["left_out"] == third["left_out"] == fourth["left_out"] == ""
    assert fourth["parts"] == {"half": 2.0}
    assert fourth["shaped_reward"] == 4.0
    deviation = tensor([4.0, 0.0, 1.0]).std().item()
    assert fourth["advantage"] == pytest.approx(fourth["tokens"] * (4 - 5 / 3) / deviation, rel=1e-3)


def test_what_was_cut_is_compared_with_but_not_learned_from(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(), tmp_path, objective(keeps_truncated=False, **IN_LOSS))
    rollout = rolled_out(found, ["how", "how ant"] * 6)
    ended = tensor([ids[-1] in found.eos_token_ids for ids in rollout.samples.response_ids])
    assert 0 < ended.sum() < len(ended)
    learned = torch.cat(rollout.steps).sort().values
    assert learned.tolist() == ended.nonzero().flatten().tolist()
    assert rollout.loss_weights is not None
    assert (rollout.loss_weights.sum(1) > 0).tolist() == (rollout.token_weights.sum(1) > 0).tolist() == ended.tolist()
    assert bool((rollout.policy[~ended, 0] != 0).all())  # of all, for curves


def test_a_rollout_of_which_nothing_is_left_changes_nothing(bases: Bases, tmp_path: Path) -> None:
    endless = {"generation_kwargs": {"suppress_tokens": [1]}, "max_steps": 4}
    found = trainer(bases(), tmp_path, objective(keeps_truncated=False, **IN_LOSS), **endless)
    before = trained(found)
    assert curve(found, "truncated") == [12.0, 12.0]
    assert logged(found, "skipped") == [1.0] * 4
    assert len(logged(found, "reward")) == 2
    assert furthest(trained(found), before) == 0
    why = "all rewards of their rollouts were equal, or none was given, or no response ended by itself: the policy"
    assert why in warned_of_skips(found)[0]


@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        ({"truncated": "drop"}, {"mask_truncated_completions": True}),
        (
            {"policy_loss": component("policy_loss", "gspo"), "truncated": "drop"},
            {
                "importance_sampling_level": "sequence",
                "epsilon": 3e-4,
                "epsilon_high": 4e-4,
                "mask_truncated_completions": True,
            },
        ),
    ],
    ids=["truncated", "gspo"],
)
def test_a_script_trains_as_with_trls_options(
    bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Any, theirs: Any
) -> None:
    monkeypatch.setattr(trl.GRPOTrainer, "_generate_single_turn", injected)
    sizes = {"num_iterations": 2, "learning_rate": 0.05}
    made = [script(OURS, bases(), tmp_path, sizes, **own), script(STOCK, bases(), tmp_path, {**sizes, **theirs})]
    made.append(script(STOCK, bases(), tmp_path, sizes))
    assert made[0].obstacle is None
    for each in made:
        set_seed(0)
        each.train()
    ours, same, plain = map(trained, made)
    assert furthest(ours, same) < 1e-3
    assert furthest(ours, plain) > 1e-2
    assert min(logged(made[0], "truncated")) > 0


def test_the_report_counts_them(tmp_path: Path) -> None:
    words: dict[str, Any] = {"use": "online", "reward": {"use": "length", "most": 99}, "advantage": "grpo"}
    words |= {"kl": "none", "equal_groups": "drop", "shaping": []}
    sizes = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6, "max_steps": 2}
    stage = component("stage", {**words, "trainer": {**sizes, "disable_tqdm": True}})
    result = stage.run(tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run", tiny_pairs(16)))
    assert result.report.left_out["response out of the loss: all to the prompt score alike"] == 16
    assert folder_of(result.policies).is_dir()


def test_an_estimator_that_compares_none_is_refused(bases: Bases, tmp_path: Path) -> None:
    why = "drop leaves out responses that differ from no other to their prompt, and the advantage compares none"
    with pytest.raises(PluginError, match=f"equal_groups: {why}; leave it out"):
        component("stage", {"use": "online", "reward": "gold", "equal_groups": "drop"})
    with pytest.raises(RunError, match=f"equal_groups={why}: leave it out"):
        trainer(bases(), tmp_path, objective(keeps_equal=False))
