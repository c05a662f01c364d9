"""Two processes train what one trains: losses, gradients and weights; and what they refuse before the first step."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from several import (
    DIES,
    ENSEMBLE,
    IN_FLOAT64,
    ONLINE,
    RECIPE,
    REST,
    RUN,
    TRAINER,
    WRITES_THE_SAME,
    assert_same,
    in_float64,
    logged,
    prepared,
    weights,
)
from warm import Warm

from rlhf_plugins.registry.discovery import DISABLED

DROPS = "    reward: {use: length, most: 5}\n    kl: none\n    equal_groups: drop\n    truncated: drop"
BEGINS = "    value: {start: reward, warmup_steps: 2}"
RESAMPLES = DROPS.replace("equal_groups: drop", "equal_groups: resample")


@pytest.fixture(autouse=True, scope="module")
def without_pages() -> Iterator[None]:
    """Drawing them would take half of a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DISABLED, "lifecycle.report")
        yield


@pytest.fixture(scope="module")
def one(python: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process leaves."""
    folder = prepared(tmp_path_factory.mktemp("one") / "run", BATCH=4, GA=1)
    found = python(*RUN, cwd=folder)
    assert found.returncode == 0, found.stderr
    return folder


def test_two_processes_train_what_one_trains(python: Warm, one: Path, tmp_path: Path) -> None:
    folder = prepared(tmp_path / "run", BATCH=2, GA=1)
    first, second = python.together(*RUN, cwd=folder)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "dpo: finished" in first.stdout
    assert second.stdout == ""
    assert_same(one, folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "advantage", ["gae", f"gae\n{BEGINS}", "grpo", f"grpo\n{DROPS}", f"grpo\n{RESAMPLES}", "reinforce_plus_plus"]
)
def test_two_processes_learn_from_the_rollout_of_one(python: Warm, tmp_path: Path, advantage: str) -> None:
    recipe = ONLINE.replace("ADVANTAGE", advantage)
    one = prepared(tmp_path / "one", recipe, BATCH=4, REWARDED=4)
    two = prepared(tmp_path / "two", recipe, BATCH=2, REWARDED=2)
    found = [python("-c", WRITES_THE_SAME, cwd=one), *python.together("-c", WRITES_THE_SAME, cwd=two)]
    assert [each.returncode for each in found] == [0, 0, 0], "".join(each.stderr for each in found)
    assert_same(one, two, near=2e-5)


@pytest.mark.slow
def test_in_float64_two_processes_are_one_to_a_millionth_of_a_millionth(python: Warm, tmp_path: Path) -> None:
    online = ONLINE[ONLINE.index("  - stage: online") :].replace("ADVANTAGE", "gae")
    one, two = (
        prepared(tmp_path / name, RECIPE + ENSEMBLE + online, BATCH=size, GA=1) for name, size in (("a", 4), ("b", 2))
    )
    for folder in (one, two):
        in_float64(folder)
    words = ("-c", IN_FLOAT64 + WRITES_THE_SAME)
    found = [python(*words, cwd=one), *python.together(*words, cwd=two)]
    assert [each.returncode for each in found] == [0, 0, 0], "".join(each.stderr for each in found)
    assert {each.dtype for each in weights(one).values()} == {torch.float64}
    names = ("loss", "grad_norm", "eval_loss", "entropy", "reward", "policy_loss", "value_loss", "margin")
    assert_same(one, two, near=1e-12, rel=1e-9, names=names)  # at first, how many rewards are above 0 is rounding


@pytest.mark.slow
def test_accumulated_batches_of_one_process_are_those_of_two(python: Warm, tmp_path: Path) -> None:
    # 12 rows: three batches of two and two; other numbers are means over the batches of a process
    one, two = (prepared(tmp_path / name, RECIPE, 12, BATCH=2, GA=ga) for name, ga in (("one", 2), ("two", 1)))
    found = [python(*RUN, cwd=one), *python.together(*RUN, cwd=two)]
    assert [each.returncode for each in found] == [0, 0, 0], "".join(each.stderr for each in found)
    assert_same(one, two, names=("loss", "grad_norm"))


@pytest.mark.slow
def test_an_ensemble_a_merge_and_evaluations_are_those_of_one_process(
    python: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DISABLED)
    one, two = (prepared(tmp_path / name, REST, BATCH=size) for name, size in (("one", 4), ("two", 2)))
    found = [python(*RUN, cwd=one), *python.together(*RUN, cwd=two)]
    assert [each.returncode for each in found] == [0, 0, 0], "".join(each.stderr for each in found)
    assert_same(one, two, near=1e-5)
    ours, theirs = (json.loads((each / "runs/r/report.json").read_text()) for each in (one, two))
    rewards = [{name: row["accuracy"] for name, row in each["reward_models"].items()} for each in (ours, theirs)]
    assert rewards[0] == rewards[1]
    scores = [[row["gold"]["mean"] for row in each["policies"].values()] for each in (ours, theirs)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert_scores_the_same(python, one, "reward_ensemble")


SEVERAL = """\
base: base
adapter: {r: 2, target_modules: [q_proj, v_proj]}
seeds: [0, 1]
data: {format: preference, source: pairs.jsonl, test_source: held_out.jsonl}
stages:
  - {stage: auto, algorithms: [dpo], trainer: {max_steps: 1, logging_steps: 1, per_device_train_batch_size: 2}}
"""


@pytest.mark.slow
def test_seeds_of_a_chosen_algorithm_run_one_after_the_other(python: Warm, tmp_path: Path) -> None:
    found = python.together(*RUN, cwd=prepared(tmp_path / "run", SEVERAL))
    assert [each.returncode for each in found] == [0, 0], "".join(each.stderr for each in found)
    assert found[0].stdout.splitlines()[-2:] == ["runs/r: 2 finished members", "runs/r/report.html"]


@pytest.mark.slow
def test_a_killed_process_stops_the_run_which_goes_on(python: Warm, tmp_path: Path) -> None:
    recipe = RECIPE.replace("base: base\n", "base: base\ncheckpoint: {every: 1 steps}\n", 1)
    whole, killed = (prepared(tmp_path / name, recipe, BATCH=2, GA=1) for name in ("whole", "killed"))
    assert [each.returncode for each in python.together(*RUN, cwd=whole)] == [0, 0]
    began = time.monotonic()
    first, second = python.together("-c", DIES, "6", cwd=killed)
    assert time.monotonic() - began < 60
    assert (first.returncode, second.returncode) == (2, -9)
    assert re.search(r"process 1 \(pid \d+ on .*\) of 2 ended, and the others cannot go on without it", first.stderr)
    again = python.together("-c", DIES, "99", "--resume", cwd=killed)
    assert [each.returncode for each in again] == [0, 0], "".join(each.stderr for each in again)
    assert logged(killed) == logged(whole)
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(killed)[name], tensor)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "now", "steps"), [(2, 1, 2), (1, 2, 6), (2, 1, 10)])
def test_a_killed_run_goes_on_in_another_number_of_processes(
    python: Warm, one: Path, tmp_path: Path, before: int, now: int, steps: int
) -> None:
    """In `sft`, in the reward model and in `preference`."""
    recipe = RECIPE.replace("base: base\n", "base: base\ncheckpoint: {every: 1 steps}\n", 1)
    folder = prepared(tmp_path / "run", recipe, BATCH=4 // before, GA=1)
    goes_on(python, folder, DIES, before, now, steps)
    assert_same(one, folder)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [3, 5, 11])
@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("advantage", ["gae", "grpo", f"grpo\n{DROPS}", f"grpo\n{RESAMPLES}"])
def test_a_rollout_goes_on_in_another_number_of_processes(
    python: Warm, tmp_path: Path, advantage: str, before: int, now: int, steps: int
) -> None:
    """After the first of the four optimizer steps that learn from a rollout, the second, and the first of another."""
    recipe = ONLINE.replace("ADVANTAGE", advantage).replace("max_steps: 4", "max_steps: 6")
    recipe = recipe.replace("base: base\n", "base: base\ncheckpoint: {every: 1 steps}\n", 1)
    one = prepared(tmp_path / "one", recipe, BATCH=4, REWARDED=4)
    found = python("-c", WRITES_THE_SAME, cwd=one)
    assert found.returncode == 0, found.stderr
    folder = prepared(tmp_path / "run", recipe, BATCH=4 // before, REWARDED=4 // before)
    goes_on(python, folder, WRITES_THE_SAME.partition("sys.argv")[0] + DIES, before, now, 1 + steps)
    assert_same(one, folder, near=2e-5)


def goes_on(python: Warm, folder: Path, program: str, before: int, now: int, steps: int) -> None:
    """A run whose last process is killed after so many training steps goes on with the batches that are asked for."""

    def in_processes(count: int, *words: str) -> list[subprocess.CompletedProcess[str]]:
        return python.together("-c", program, *words, cwd=folder, count=count)

    assert in_processes(before, str(steps))[-1].returncode == -9
    refused = in_processes(now, "99", "--resume")[0].stderr
    _, asked = refused.split("batches stay the same with ")
    again = in_processes(now, "99", "--resume", *asked.partition(";")[0].split())
    assert {each.returncode for each in again} == {0}, "".join(each.stderr for each in again)
    assert "goes on from step" in again[0].stderr


OTHER_VERSION = """\
import os, sys
from rlhf_plugins.report import machine
own = machine._version
machine._version = lambda name: "1.0" if name == "trl" and os.environ["RANK"] == "1" else own(name)
sys.argv = ["rlhf", "run", "r.yaml"]
from rlhf_plugins.cli import main
main()
"""


@pytest.mark.slow
def test_another_version_in_a_process_ends_both_before_the_first_step(python: Warm, tmp_path: Path) -> None:
    folder = prepared(tmp_path / "run", BATCH=2, GA=1)
    found = python.together("-c", OTHER_VERSION, cwd=folder)
    assert [each.returncode for each in found] == [2, 2]
    assert "process 1 on " in found[0].stderr
    assert "would train otherwise: versions.trl is in process 0" in " ".join(found[0].stderr.split())
    assert not list(folder.glob("runs/*/*/"))


def launched(folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "a.yaml").write_text("distributed_type: MULTI_GPU\nnum_processes: 2\nmain_process_port: 0\n")
    words = [sys.executable, "-m", *RUN[1:], "--launch", "a.yaml"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_accelerate_launches_a_recipe(tmp_path: Path) -> None:
    done = launched(prepared(tmp_path / "run", BATCH=2, GA=1))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("dpo: finished") == 1


KILLED = """\
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from rlhf_plugins import Monitor, hookimpl

@dataclass(frozen=True)
class Killed(Monitor):
    place: str = "0"
    def build(self, run):
        def watch(step):
            if os.environ["RANK"] == self.place and step.step == 2:
                Path("at").write_text(str(time.time()))
                os.kill(os.getpid(), signal.SIGKILL)
        return watch

@hookimpl
def register_monitor():
    return {"killed": Killed}
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["0", "1"])
def test_the_launcher_names_a_process_that_was_killed(tmp_path: Path, place: str) -> None:
    kills = f"\n    monitors: [{{use: killed, place: '{place}'}}]\n    trainer: &trainer"
    recipe = "plugins: [killed.py]\n" + RECIPE.replace("\n    trainer: &trainer", kills, 1)
    folder = prepared(tmp_path / "run", recipe, BATCH=2, GA=1)
    (folder / "killed.py").write_text(KILLED)
    done = launched(folder)
    assert time.time() - float((folder / "at").read_text()) < 60
    assert done.returncode == 2
    said = rf"process {place} \(pid \d+\) was ended by SIGKILL, and the others stopped; go on with --resume"
    assert re.search(said, " ".join(done.stderr.split()))


PACKED = f"""\
{RECIPE.partition("  - stage")[0]}\
  - stage: sft
    from: base
    trainer: {{{TRAINER}, per_device_train_batch_size: BATCH, packing: true, max_length: 24}}
  - {{stage: reward_model, from: base, sampler: curriculum, trainer: {{{TRAINER}, per_device_train_batch_size: BATCH}}}}
"""


@pytest.mark.slow
def test_packed_rows_and_a_curriculum_are_those_of_one_process(python: Warm, tmp_path: Path) -> None:
    one, two = (prepared(tmp_path / name, PACKED, 28, BATCH=size) for name, size in (("one", 4), ("two", 2)))
    for folder in (one, two):
        read = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
        graded = [json.dumps({**row, "difficulty": place % 5}) for place, row in enumerate(read)]
        (folder / "pairs.jsonl").write_text("\n".join(graded))
    found = [python(*RUN, cwd=one), *python.together(*RUN, cwd=two)]
    assert [each.returncode for each in found] == [0, 0, 0], "".join(each.stderr for each in found)
    assert sum(each["stage"] == "sft" and "loss" in each for each in logged(one)) > 1
    assert_same(one, two)


def assert_scores_the_same(python: Warm, folder: Path, stage: str) -> None:
    words = ("-m", "rlhf_plugins.cli", "score", f"runs/r#{stage}", "pairs.jsonl", "--out", "out.jsonl")
    found = [python(*words, cwd=folder)]
    alone = [json.loads(line) for line in (folder / "out.jsonl").rename(folder / "one.jsonl").read_text().splitlines()]
    found += python.together(*words, cwd=folder)
    assert [each.returncode for each in found] == [0, 0, 0], "".join(each.stderr for each in found)
    together = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [row["rewards"] for row in together] == [pytest.approx(row["rewards"], abs=1e-6) for row in alone]


@pytest.mark.slow
def test_two_processes_score_what_one_scores(python: Warm, one: Path) -> None:
    assert_scores_the_same(python, one, "reward_model")


OTHER_ROWS = """\
import os, sys
sys.argv = ["rlhf", "score", "runs/r#reward_model", f"rows{os.environ['RANK']}.jsonl", "--out", "others.jsonl"]
from rlhf_plugins.cli import main
main()
"""


@pytest.mark.slow
def test_processes_with_other_rows_score_nothing(python: Warm, one: Path) -> None:
    rows = (one / "pairs.jsonl").read_text().splitlines(keepends=True)
    for place in range(2):
        (one / f"rows{place}.jsonl").write_text("".join(rows[place:]))
    found = python.together("-c", OTHER_ROWS, cwd=one)
    assert [each.returncode for each in found] == [2, 2]
    assert "would score otherwise: set of rows is in process 0 on " in " ".join(found[0].stderr.split())
    assert not list(one.glob("others.jsonl*"))
