"""The loop at the smallest size: its lineage, its gates, its early end, and that a kill costs nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rlhf_constitution.held_out import HeldOut, Measured, held_out
from safetensors.torch import load_file

from rlhf_plugins import Data, Group, Policy, RlhfError, RunRecord, open_run, run_recipe
from rlhf_plugins.testing import tiny_base

FEEDBACK = {"stage": "ai_feedback", "constitution": "./c.yaml", "answers": 3, "gap": 0.0, "prompts": 8}
FEEDBACK |= {"sampling": {"max_new_tokens": 8, "exploration": 0.25}, "explorer": "base"}
TRAINER = {"max_steps": 1, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
PREFERENCE = {"stage": "preference", "trainer": TRAINER}
SFT = {"stage": "sft", "trainer": TRAINER}
ROLLOUT = {"max_completion_length": 4, "num_generations": 2, "per_device_train_batch_size": 4, "max_steps": 1}
ONLINE = {"stage": "online", "reward": "gold", "trainer": ROLLOUT}
CONSTITUTION = "principles: [{use: length_band, low: 6, high: 7}]"


def recipe(folder: Path, **options: Any) -> dict[str, Any]:
    (folder / "c.yaml").write_text(CONSTITUTION)
    feedback = {**FEEDBACK, "constitution": str(folder / "c.yaml")}
    loop = {"stage": "self_improve", "stages": [feedback, PREFERENCE], "held_out": 4, "max_new_tokens": 8}
    return {
        "base": tiny_base(folder / "base").path,
        "adapter": {"r": 2},
        "data": {"format": "sandbox", "writer": "sloppy", "prompts": 8, "test_prompts": 4},
        "output_dir": str(folder / "run"),
        "stages": [{**loop, "judge": str(folder / "c.yaml"), **options}],
    }


def ran(made: dict[str, Any], **how: bool) -> RunRecord:
    return open_run(run_recipe(made, say=lambda line: None, **how).folder)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """What the judge finds in turn, a mean and a variety; an empty list lets it judge."""
    answers: list[tuple[float, float]] = []
    real = HeldOut.measure

    def measure(self: HeldOut, policy: Policy, seed: int, draw: int = 0) -> Measured:
        if not answers or draw:
            return real(self, policy, seed, draw)
        mean, varied = answers.pop(0)
        return Measured([mean - 0.001, mean, mean, mean + 0.001], varied)

    monkeypatch.setattr(HeldOut, "measure", measure)
    return answers


def table(record: RunRecord) -> list[dict[str, Any]]:
    (result,) = record.finished
    return [dict(row) for row in result.sections[0].rows]


def test_the_lineage_is_in_the_report_and_the_winner_is_scored_again(tmp_path: Path) -> None:
    record = ran(recipe(tmp_path, rounds=2))
    rows = table(record)
    assert [row["round"] for row in rows] == ["start", 0, 1]
    (result,) = record.finished
    assert "; with fresh answers and fresh noise on the same prompts it gains " in result.sections[0].text
    assert {"gain", "gain_error", "rounds", "chosen"} <= result.metrics.keys()
    assert list(result.policies) == ["self_improve"]
    audited = (record.folder / "01-self_improve/audit-r0.jsonl").read_text().splitlines()
    assert set(json.loads(audited[0])) == {"prompt", "responses"}


def test_other_prompts_than_those_that_chose_measure_the_gain(tmp_path: Path) -> None:
    (loop,) = (made := recipe(tmp_path, rounds=1, held_out=3))["stages"]
    made |= {"data": {**made["data"], "test_prompts": 5}, "stages": [{**loop, "gates": False}]}
    record = ran(made)
    assert "; on 2 other prompts it gains " in record.finished[0].sections[0].text
    first, fresh = (
        json.loads((record.folder / f"01-self_improve/once/held_out-start-{draw}.json").read_text()) for draw in (0, 1)
    )
    assert (len(first["scores"]), len(fresh["scores"])) == (3, 2)


def test_prompts_that_choose_and_those_that_measure_are_others() -> None:
    asked = [Group(prompt, ()) for prompt in ("p0", "p1", "p2", "p3", "p0", "p4")]
    run: Any = SimpleNamespace(data=Data((), prompts={"test": asked}, gold=lambda prompt, response: {"total": 0.0}))
    two, three, four = (held_out(run, None, most, 1, 1) for most in (2, 3, 4))
    assert [one.prompts for one in two] == [["p0", "p1"], ["p2", "p3"]]
    assert [one.prompts for one in three] == [["p0", "p1", "p2"], ["p3", "p4"]]
    assert [one.prompts for one in four] == 2 * [["p0", "p1", "p2", "p3"]]


def test_a_round_goes_on_with_the_optimizer_of_its_start(tmp_path: Path) -> None:
    record = ran(recipe(tmp_path, rounds=2, gates=False, carry=["optimizer"]))
    for number in range(2):
        kept = load_file(record.folder / f"01-self_improve/r{number}-preference/optimizer.safetensors")
        assert {int(each) for key, each in kept.items() if key.endswith("/step")} == {number + 1}


def test_what_no_stage_of_a_round_carries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RlhfError, match="carry: none of the stages can go on with 'value'"):
        ran(recipe(tmp_path, carry=["value"]))


def in_stages(folder: Path, *stages: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The recipe with other trainings after its feedback."""
    made = recipe(folder, **options)
    (loop,) = made["stages"]
    return {**made, "stages": [{**loop, "stages": [loop["stages"][0], *stages]}]}


def test_what_the_stage_before_never_leaves_is_refused_before_anything_is_generated(tmp_path: Path) -> None:
    """Each online training starts from a policy of `sft`, which has no KL and no critic, in every round."""
    with pytest.raises(RlhfError, match="carry: none of the stages can go on with 'kl' of the stage that makes its"):
        ran(in_stages(tmp_path, SFT, ONLINE, carry=["kl", "value"]))
    assert not (tmp_path / "run").exists()


def test_a_stage_goes_on_with_what_the_maker_of_its_start_can_leave(tmp_path: Path) -> None:
    """`first` starts from `sft` and takes its optimizer alone; `second` takes optimizer and KL of `first`."""
    online = [{**ONLINE, "name": name} for name in ("first", "second")]
    record = ran(in_stages(tmp_path, SFT, *online, rounds=1, carry=["optimizer", "kl"]))
    calls = {
        name: json.loads((record.folder / f"01-self_improve/r0-{name}" / "call.json").read_text()).get("carry", [])
        for name in ("sft", "first", "second")
    }
    assert calls == {"sft": [], "first": ["optimizer"], "second": ["kl", "optimizer"]}


@pytest.mark.slow
def test_a_worse_round_is_not_built_on_and_two_without_a_gain_end_the_loop(
    tmp_path: Path, measured: list[tuple[float, float]]
) -> None:
    measured += [(0.5, 3.0), (0.7, 3.0), (0.2, 3.0), (0.69, 3.0), (0.9, 3.0)]
    rows = table(ran(recipe(tmp_path, rounds=5)))
    assert [(row["round"], row.get("from")) for row in rows[1:]] == [
        (0, "start"),
        (1, "r0-preference"),
        (2, "r0-preference"),
    ]
    assert rows[2]["kept"] == "0.500 worse than r0-preference"


@pytest.mark.slow
def test_a_round_that_collapses_is_not_built_on_however_good_it_seems(
    tmp_path: Path, measured: list[tuple[float, float]]
) -> None:
    measured += [(0.5, 3.0), (0.9, 1.7), (0.6, 2.0)]
    record = ran(recipe(tmp_path, rounds=2))
    rows = table(record)
    assert rows[1]["kept"] == "its answers are less varied than 60% of round 0's"
    assert record.finished[0].metrics["chosen"] == "r1-preference"


@pytest.mark.slow
def test_without_gates_the_collapse_is_kept(tmp_path: Path, measured: list[tuple[float, float]]) -> None:
    measured += [(0.5, 3.0), (0.4, 1.7), (0.3, 1.0)]
    record = ran(recipe(tmp_path, rounds=2, gates=False))
    assert [row["kept"] for row in table(record)[1:]] == ["yes", "yes"]
    assert record.finished[0].metrics["chosen"] == "r1-preference"


@pytest.mark.slow
def test_held_out_labels_of_people_choose_and_rows_of_another_stage_are_no_earlier_round(tmp_path: Path) -> None:
    made = recipe(tmp_path, rounds=1, judge="people", held_out=64)
    (loop,) = made["stages"]
    loop["stages"] = [{**each, "name": f"{each['stage']}{n}"} for n in (0, 1) for each in loop["stages"]]
    record = ran(made)
    (result,) = record.finished
    assert result.evaluation.judge == "people"
    assert result.evaluation.scores["start"] == [0.5] * 12  # of itself, it leans nowhere
    assert set(result.evaluation.scores["r0-preference1"]) <= {0.0, 0.5, 1.0}
    assert "On the pairs that it was chosen by it gains" in result.sections[0].text
    own = [group for group in result.data.train if group.origin.source == "r0-ai_feedback1"]
    assert table(record)[1]["rows"] == len(own)  # none of ai_feedback0's, of which a fifth would be replayed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": [PREFERENCE]}, "none of them makes data"),
        ({"judge": "nope.yaml"}, "stages.0.judge: .*nope.yaml: no such file, nor a bundled constitution"),
        ({"replay": {"first": 0.1}}, "replay.first: should be greater than or equal to 0.2"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RlhfError, match=message):
        ran(recipe(tmp_path, **options))
