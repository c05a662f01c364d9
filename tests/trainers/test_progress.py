"""Where nobody looks at a terminal, a line every few seconds says how far a training is; nothing is drawn again."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl

from rlhf_plugins.engine import progress as of_engine
from rlhf_plugins.engine.progress import HEAVY, Counted, before, loading
from rlhf_plugins.engine.weights.loading import load_causal
from rlhf_plugins.testing import tiny_base
from rlhf_plugins.trainers.watching.progress import Progress, words

ARGS = SimpleNamespace(output_dir="runs/a/02-dpo")


def state(step: int) -> Any:
    return SimpleNamespace(global_step=step, max_steps=100, is_world_process_zero=True)


def train(progress: Progress, seconds: list[float], clock: list[float], start: int = 0) -> None:
    """A step at each of these times."""
    control = TrainerControl()
    progress.on_train_begin(ARGS, state(start), control)
    for step, now in enumerate(seconds, start + 1):
        clock[0] = now
        progress.on_log(ARGS, state(step), control, {"loss": 0.5, "kl": 1.25, "grad_norm": 3.0})
        progress.on_step_end(ARGS, state(step), control)
    progress.on_train_end(ARGS, state(step), control)


def test_a_line_every_few_seconds_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    train(Progress(10, lambda: clock[0]), [4.0, 8.0, 12.0, 13.0], clock)
    assert capsys.readouterr().err.splitlines() == [
        "dpo: step 3 of 100, loss 0.5, KL 1.25, 12 s so far, about 6 min 28 s left",  # 97 steps of 4 s
        "dpo: step 4 of 100, loss 0.5, KL 1.25, 13 s so far, about 5 min 12 s left",  # 96 steps of 3.25 s
    ]


def test_a_stage_says_how_long_the_run_takes_and_its_parts_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    with before(lambda share, taken: 100.0):
        train(Progress(10, lambda: clock[0]), [5.0, 10.0], clock)
        part = Counted("sampling", 4, "responses", 10, lambda: clock[0], part=True)
        clock[0] = 20.0
        part.add(1)
    first, _, sampling = capsys.readouterr().err.splitlines()
    # 98 steps of 5 s, then 100 s
    assert first.endswith("10 s so far, about 8 min 10 s left, about 9 min 50 s left of the run")
    assert sampling == "sampling: 1 of 4 responses, about 30 s left"


def test_held_out_rows_are_counted_while_they_are_computed(capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    progress, control = Progress(10, lambda: clock[0]), TrainerControl()
    for clock[0] in (0.0, 11.0):
        progress.on_prediction_step(ARGS, state(5), control, eval_dataloader=range(4))
    progress.on_evaluate(ARGS, state(5), control)
    progress.on_prediction_step(ARGS, state(5), control, eval_dataloader=iter(()))  # rows that are streamed
    assert capsys.readouterr().err == "dpo, held out: 2 of 4 batches, about 11 s left\n"


def test_a_short_training_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    train(Progress(10, lambda: clock[0]), [1.0, 2.0], clock)
    assert capsys.readouterr().err == ""


def test_the_time_left_counts_only_steps_since_a_resume(capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    train(Progress(10, lambda: clock[0]), [20.0], clock, start=89)
    assert capsys.readouterr().err.startswith(
        "dpo: step 90 of 100, loss 0.5, KL 1.25, 20 s so far, about 3 min 20 s left"
    )


def test_in_a_terminal_there_is_a_bar_with_the_numbers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    clock = [0.0]
    train(Progress(10, lambda: clock[0]), [0.5, 1.0], clock)
    drawn = capsys.readouterr().err
    assert "dpo:" in drawn
    assert "loss 0.5, KL 1.25" in drawn
    assert "\n" not in drawn.rstrip("\n")


def test_a_reward_is_shown_with_its_first_parts() -> None:
    """And a part is no other number of its name."""
    numbers = {"reward": 1.5, "length": 7.0, "reward/right": 0.25, "reward/length": 1.0}
    assert words(numbers) == "reward 1.5 (right 0.25, length 1), length 7"
    many = {f"reward/{name}": 1.0 for name in "abcde"}
    assert words({"reward": 1.0, **many}) == "reward 1 (a 1, b 1, c 1, d 1, ...)"


def test_numbers_in_words() -> None:
    assert words({"rewards/accuracies": 0.75, "reward": 1.5, "lr": 1.0}) == "reward 1.5, accuracy 0.75"


def test_an_evaluation_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    counted = Counted("evaluate", 1000, "responses", 10, lambda: clock[0])
    for now in (4.0, 12.0, 15.0, 40.0):
        clock[0] = now
        counted.add(250)
    counted.close()
    assert capsys.readouterr().err == "evaluate: 500 of 1,000 responses, about 12 s left\n"


@pytest.mark.parametrize(("size", "seconds"), [(HEAVY, 30.0), (HEAVY, 1.0), (HEAVY - 1, 30.0)])
def test_a_heavy_model_is_said_to_load(
    size: int, seconds: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(size)
    clock = [0.0]
    with loading(str(tmp_path), lambda: clock[0]):
        begun = capsys.readouterr().err
        clock[0] = seconds
    assert begun == (f"loading {tmp_path} (256 MiB)\n" if size == HEAVY else "")
    assert capsys.readouterr().err == (f"loaded {tmp_path} in 30 s\n" if begun and seconds == 30 else "")


def test_whatever_opens_a_base_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_engine, "HEAVY", 0)
    load_causal(tiny_base(tmp_path))
    assert f"loading {tmp_path} (" in capsys.readouterr().err
