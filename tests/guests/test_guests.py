"""Guests written from the documentation alone: a loop, two monitors with a reader, and a kind with a reward."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from marks import slow

from rlhf_plugins import RlhfError, RunRecord, StageResult, load_data, open_run, run_recipe, session
from rlhf_plugins.testing import examine, properties_of, subjects_in, tiny_base

HERE = Path(__file__).parent
Recipe = dict[str, Any]


def quiet(line: str) -> None:
    """Prints nothing."""


def recipe(folder: Path, guest: str, **stage: Any) -> Recipe:
    """A recipe with one stage of a guest on a random model."""
    return {
        "base": tiny_base(folder / "base").path,
        "adapter": {"r": 2},
        "plugins": [str(HERE / f"guest_{guest}" / f"guest_{guest}.py")],
        "data": {"format": "sandbox", "writer": "sloppy", "prompts": 8, "pairs": 1, "test_prompts": 4},
        "output_dir": str(folder / "run"),
        "stages": [stage],
    }


def loop(folder: Path) -> Recipe:
    trainer = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    return recipe(
        folder, "loop", stage="loop", k=3, max_new_tokens=8, training={"use": "preference", "trainer": trainer}
    )


def online(folder: Path, guest: str, steps: int, **stage: Any) -> Recipe:
    """GRPO's advantage on rollouts of 16 responses to 4 prompts, one step on each."""
    trainer = {
        "max_steps": steps,
        "per_device_train_batch_size": 16,
        "num_generations": 4,
        "max_completion_length": 8,
        "logging_steps": 1,
        "learning_rate": 1e-3,
    }
    return recipe(folder, guest, stage="online", advantage="grpo", trainer=trainer, **stage)


def ran(recipe: Recipe, **how: bool) -> RunRecord:
    return open_run(run_recipe(recipe, say=quiet, **how).folder)


def only(record: RunRecord) -> StageResult:
    (result,) = record.finished
    return result


def column(record: RunRecord, key: str) -> list[float]:
    """The numbers of that name, in the order of steps."""
    return [row[key] for row in record.metrics() if key in row]


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], list[int]]:
    """Counts what policies sample, as numbers of responses; `sampled(n)` makes the n-th call fail."""
    calls: list[int] = []
    dies = [0]
    policy = type(session(tiny_base(tmp_path / "base"), loop(tmp_path)["data"], tmp_path / "session").policy())
    real = policy.sample

    def sample(self: Any, prompts: list[str], n: int = 1, **options: Any) -> Any:
        calls.append(len(prompts) * n)
        if len(calls) == dies[0]:
            raise RuntimeError("killed")
        return real(self, prompts, n, **options)

    def arm(at: int) -> list[int]:
        dies[0] = at
        return calls

    monkeypatch.setattr(policy, "sample", sample)
    return arm


@pytest.mark.parametrize("at", [*slow(3), 5])
def test_a_loop_that_was_killed_goes_on_without_sampling_again(
    tmp_path: Path, sampled: Callable[[int], list[int]], at: int
) -> None:
    calls = sampled(at)
    with pytest.raises(RlhfError, match="killed"):
        ran(loop(tmp_path))
    record = ran(loop(tmp_path), resume=True)
    assert record.status == "finished"
    prompts = [4, 24, 4, 24, 4]  # the start, then twice 3 responses to 8 prompts and one to each held-out prompt
    assert calls == prompts[:at] + prompts[at - 1 :]


def test_a_loop_hands_on_the_winner_its_data_and_its_evaluation(tmp_path: Path) -> None:
    result = only(ran(loop(tmp_path)))
    means = {name: sum(scores) for name, scores in result.evaluation.scores.items()}
    best = max(means, key=means.__getitem__)
    assert list(means) == ["start", "loop-0", "loop-1"]
    assert result.policies["loop"]["use"] == ("base" if best == "start" else "trained")
    assert best == "start" or best in str(result.policies["loop"]["path"])
    rows = load_data(tmp_path / "run" / "01-loop").train
    assert len(rows) == 16  # 8 prompts, twice
    assert all(0.5 <= pair.probability < 1 for row in rows for pair in row.compared)
    assert result.cost.reward_calls == 60  # 4 + 24 + 4 + 24 + 4


@pytest.mark.slow
def test_a_later_stage_trains_on_what_a_loop_made(tmp_path: Path) -> None:
    made = loop(tmp_path)
    made["stages"][0]["rounds"] = 1
    made["stages"].append({"stage": "preference", "name": "after", "data": {"format": "stage", "stage": "loop"}})
    made["stages"][1]["trainer"] = {"num_train_epochs": 1, "per_device_train_batch_size": 4}
    after = ran(made).finished[1]
    assert after.curves["train_loss"].points[-1][0] == 6  # steps: 3 pairs of each of 8 prompts, 4 a step


@pytest.mark.slow
def test_a_monitor_halves_the_kl_coefficient(tmp_path: Path) -> None:
    record = ran(online(tmp_path, "watch", 3, reward="gold", monitors=[{"use": "loose_kl", "limit": 100}]))
    assert column(record, "kl_coef") == [0.05, 0.025, 0.0125]
    assert [row["monitor"] for row in record.alarms()] == ["loose_kl"] * 3


@pytest.mark.slow
def test_a_monitor_ends_the_run_and_a_reader_saw_its_rows_before(tmp_path: Path) -> None:
    watched = online(tmp_path, "watch", 40, reward="gold", monitors=[{"use": "last_rollout", "rollouts": 12}])
    command = [sys.executable, watched["plugins"][0], watched["output_dir"]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        with pytest.raises(RlhfError, match="12 rollouts"):
            ran(watched)
        rows = [json.loads(line) for line in reader.stdout or ()]
    assert rows[0]["status"] == "running"
    assert [row["step"] for row in rows if row["kind"] == "metrics"] == list(range(1, 12))
    assert rows[-1]["kind"] == "alarms"
    assert open_run(watched["output_dir"]).status == "failed"


FALLBACK = """
from pathlib import Path


def score(completions):
    with Path(__file__).with_name("asked.txt").open("a") as file:
        file.write("asked\\n" * len(completions))
    return [0.5] * len(completions)
"""


def test_a_reward_of_a_new_kind_abstains_and_its_rows_are_counted(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(FALLBACK)
    reward = {"use": "principled", "tolerance": 0.75}
    other = {"use": "python", "path": f"{tmp_path / 'other.py'}:score"}
    dropped = column(ran(online(tmp_path, "kind", 1, reward=reward, abstained="drop")), "abstained")
    answered = online(tmp_path, "kind", 1, reward=reward, abstained="fallback", fallback=other)
    ran(answered, overwrite=True)
    count = len((tmp_path / "asked.txt").read_text().split())
    assert 3 <= count <= 8  # of 16 responses
    assert dropped == [count]


TYPOS = {
    "trait": ({"code": "class X(RewardLoss, whole_group=True): ..."}, "whole_groups"),
    "value of a trait": ({"code": "class X(RewardLoss, needs={'margn'}): ..."}, "margin"),
    "hook": ({"code": "@hookimpl\ndef step_loged(step): ..."}, "step_logged"),
    "column": ({"data": {"format": "preference", "source": "rows.jsonl", "columns": {"margin": "margn"}}}, "margin"),
    "metric": ({"stages": [{"stage": "evaluate", "metrics": ["acuracy"]}]}, "accuracy"),
    "option": ({"stages": [{"stage": "online", "reward": {"use": "principled", "tolerence": 1}}]}, "tolerance"),
    "component": (
        {"stages": [{"stage": "online", "reward": {"use": "principled", "rules": ["varid"]}}]},
        "varied",
    ),
}


@pytest.mark.parametrize("name", TYPOS)
def test_a_misspelt_name_is_one_line_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    changes, nearest = dict(TYPOS[name][0]), TYPOS[name][1]
    Path("rows.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1.0}))
    Path("typo.py").write_text("from rlhf_plugins import RewardLoss, hookimpl\n" + changes.pop("code", ""))
    made = recipe(tmp_path, "kind", stage="preference")
    with pytest.raises(RlhfError) as caught:
        ran(made | {"plugins": [*made["plugins"], "typo.py"]} | changes)
    assert str(caught.value).count("\n") == 0
    assert f"did you mean {nearest}?" in str(caught.value)


MISREAD = """
from dataclasses import dataclass

from rlhf_plugins import Monitor, hookimpl


@dataclass(frozen=True)
class Misread(Monitor):
    def build(self, run):
        return lambda step: step.values["kl_per_tokn"]


@hookimpl
def register_monitor():
    return {"misread": Misread}
"""


def test_a_misspelt_key_of_a_step_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "misread.py").write_text(MISREAD)
    made = online(tmp_path, "watch", 1, reward="gold", monitors=["misread"])
    with pytest.raises(RlhfError, match="did you mean kl_per_token"):
        ran(made | {"plugins": [str(tmp_path / "misread.py")]})


@pytest.mark.parametrize("guest", ["loop", "watch", "kind"])
def test_the_kit_finds_no_fault(guest: str) -> None:
    subjects = subjects_in(HERE / f"guest_{guest}" / f"guest_{guest}.py", {})
    assert subjects
    for subject in subjects:
        kit = properties_of(subject.kind, subject.registry)
        assert [found for one in kit if not one.trains and (found := examine(subject, one))] == []
