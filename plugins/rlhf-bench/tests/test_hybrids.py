"""Blends, rounds and switches: what each hands on, where each part starts, and the arithmetic by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rlhf_bench.blend import simplex
from rlhf_bench.iterate import Ending, Switch, gain, less, part_of
from safetensors.torch import load_file

from rlhf_plugins import Budget, Cost, PluginError, RunRecord, Step, component, open_run, run_recipe
from rlhf_plugins.testing import tiny_base

TRAINER = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1}
SHORT = {"prompts": 4, "max_new_tokens": 4}
ONLINE = {**TRAINER, "num_generations": 2, "max_completion_length": 4}


def ran(folder: Path, *stages: dict[str, Any]) -> RunRecord:
    data = {"format": "sandbox", "writer": "sloppy", "prompts": 4, "test_prompts": 4}
    recipe = {"base": tiny_base(folder / "base").path, "adapter": {"r": 2}, "data": data, "output_dir": f"{folder}/run"}
    return open_run(run_recipe({**recipe, "stages": list(stages)}, say=str).folder)


def test_a_simplex_holds_every_division_and_its_corners() -> None:
    assert set(simplex(2, 2)) == {(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)}
    assert len(list(simplex(3, 4))) == 15
    assert all(sum(alpha) == pytest.approx(1) for alpha in simplex(3, 4))


@pytest.mark.slow
def test_a_blend_is_the_best_of_its_grid_and_opens_like_any_policy(tmp_path: Path) -> None:
    trained = [
        {"stage": "preference", "name": name, "from": "base", "loss": name, "trainer": TRAINER}
        for name in ("dpo", "ipo")
    ]
    blend = {
        "stage": "blend",
        "policies": ["dpo", "ipo"],
        "reward": "gold",
        "grid": 2,
        "prompts": 4,
        "max_new_tokens": 4,
    }
    evaluate = {"stage": "evaluate", "best_of": 1, "ceiling": 2, **SHORT}
    record = ran(tmp_path, *trained, blend, evaluate)
    result = record.finished[2]
    values = [row["validation reward"] for row in result.sections[0].rows]
    assert len(values) == 3
    assert values == sorted(values, reverse=True)
    assert "blend" in record.report.policies


def test_a_policy_may_not_be_blended_with_itself() -> None:
    with pytest.raises(PluginError, match="each once"):
        component("stage", "blend", policies=["dpo", "dpo"])


def rounds(folder: Path) -> dict[str, Any]:
    (folder / "rewards.py").write_text("def length(completions):\n    return [float(len(c)) for c in completions]\n")
    reward = {"use": "python", "path": f"{folder}/rewards.py:length"}
    training = {"use": "preference", "trainer": TRAINER}
    return {"stage": "iterate", "reward": reward, "rounds": 2, "n": 2, **SHORT, "training": training}


def test_rounds_train_on_pairs_of_the_policy_of_the_round_before(tmp_path: Path) -> None:
    (result,) = ran(tmp_path, rounds(tmp_path)).finished
    assert [step for step, _ in result.curves["reward"].points] == [0, 1]
    assert {str(group.origin) for group in result.data.train} == {"iterate:0", "iterate:1"}
    assert result.policies["iterate"]["path"].endswith("round1/model")


def test_a_round_goes_on_with_the_optimizer_of_the_one_before(tmp_path: Path) -> None:
    record = ran(tmp_path, {**rounds(tmp_path), "carry": ["optimizer"]})
    for place, name in enumerate(("round0", "round1")):
        kept = load_file(record.folder / "01-iterate" / name / "optimizer.safetensors")
        assert {int(each) for key, each in kept.items() if key.endswith("/step")} == {2 * place + 2}


def test_what_the_training_cannot_carry_is_refused() -> None:
    with pytest.raises(PluginError, match="carry: the stage preference can go on with optimizer, not with 'kl'"):
        component("stage", "iterate", training="preference", carry=["kl"])


def test_a_switch_goes_on_where_the_phase_before_ended(tmp_path: Path) -> None:
    phases = [{"use": "preference", "trainer": TRAINER}, {"use": "online", "reward": "gold", "trainer": ONLINE}]
    (result,) = ran(tmp_path, {"stage": "switch", "phases": phases}).finished
    assert [row["ended"] for row in result.sections[0].rows] == ["done", "done"]
    assert result.policies["switch"]["path"].endswith("phase1/model")
    assert "phase0" in " ".join(result.opened)


def test_what_a_phase_leaves_of_its_budget_is_shared_by_the_later_ones() -> None:
    whole = Budget(flops=9.0)
    left = less(whole, Cost(flops=1.0, seconds=5.0))  # of its part, 3
    assert (part_of(whole, 3), left, part_of(left, 2)) == (Budget(flops=3.0), Budget(flops=8.0), Budget(flops=4.0))
    assert less(left, Cost(flops=10.0)) == Budget(flops=0.0)


def test_a_phase_ends_where_its_reward_no_longer_rises_or_its_kl_is_high() -> None:
    assert gain([1.0, 2.0, 4.0], 2) is None
    assert gain([1.0, 2.0, 4.0, 5.0], 2) == 3.0
    still = Ending(Switch(phases=(), window=1))
    assert [still(Step("a", step, None, {"reward": value})) for step, value in ((1, 0.0), (2, 1.0), (3, 1.0))] == [
        False,
        False,
        True,
    ]
    far = Ending(Switch(phases=(), most_kl=2.0))
    assert far(Step("a", 1, None, {"kl": 2.5, "reward": 1.0}))
    assert far.said == "a KL of 2.50"
    blind = Ending(Switch(phases=(), most_kl=2.0))
    assert not blind(Step("a", 1, None, {"rewards/margins": 1.0}))
    assert blind.said == "done; it logged no KL, so that most_kl could not end it"
