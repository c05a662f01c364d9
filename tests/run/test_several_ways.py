"""What else two processes train as one does: rounded bases and products, scaled losses, budgets, monitors, a sweep.

Where numbers are rounded by what is computed with them, both compute the same rows at once: one by one, or of `sft` as
accumulated batches.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from several import EVALUATES, FSDP2, PAIRS, SHARDS, TRAINER, WRITES_THE_SAME, assert_same, prepared
from warm import Warm

from rlhf_plugins.registry.discovery import DISABLED
from rlhf_plugins.testing import tiny_base

ALONE = os.environ | {DISABLED: "lifecycle.report"}
ONE, TWO = {"BATCH": 4, "GA": 2}, {"BATCH": 2, "GA": 1}
EVEN = PAIRS - 1  # so that there is no last batch of fewer rows
EACH = f"""\
base: base
adapter: {{r: 2, target_modules: [q_proj, v_proj]}}
data: {{format: preference, source: pairs.jsonl, test_source: held_out.jsonl}}
stages:
  - {{stage: sft, from: base, trainer: {{{TRAINER}, per_device_train_batch_size: 2, gradient_accumulation_steps: GA}}}}
  - stage: reward_model
    from: base
    tokens_per_batch: 1
    trainer: &trainer {{{TRAINER}, per_device_train_batch_size: BATCH}}
  - {{stage: preference, name: dpo, from: base, tokens_per_batch: 1, trainer: *trainer}}
  - stage: online
    from: base
    tokens_per_batch: 1
    trainer: {{{TRAINER.replace("0.2", "0.05")}, max_steps: 5, per_device_train_batch_size: BATCH,
      steps_per_generation: 2, num_generations: 2, num_iterations: 2, max_completion_length: 8}}
"""
COMPARED = (  # not what `sft` logs as a mean over the batches of a process
    *("loss", "grad_norm", "learning_rate", "margin", "accuracy", "rewards/chosen", "rewards/margins", "logps/chosen"),
    *("reward", "kl", "approx_kl", "policy_loss", "value_loss", "clip_fraction", "skipped", "regularizer/l2_sp"),
)
Done = list[CompletedProcess[str]]


def both(python: Warm, folder: Path, recipe: str, script: str = "", codes: tuple[int, int, int] = (0, 0, 0)) -> Done:
    """What came of a recipe in one process and in two, which leave `folder`/one and `folder`/two."""
    folder.mkdir(exist_ok=True)
    made = [prepared(folder / name, recipe, EVEN, **sizes) for name, sizes in (("one", ONE), ("two", TWO))]
    for each in made:
        tiny_base(each / "base", hidden_size=64, head_dim=16, intermediate_size=128)  # as wide as blocks of nf4
        (each / "watching.py").write_text(WATCHING)
    words = ("-c", script + WRITES_THE_SAME)
    found = [python(*words, cwd=made[0], env=ALONE), *python.together(*words, cwd=made[1], env=ALONE)]
    assert tuple(each.returncode for each in found) == codes, "".join(each.stderr for each in found)
    return found


def with_options(recipe: str, options: str) -> str:
    """A recipe whose stages have some options besides."""
    return recipe.replace("from: base,", f"from: base, {options},").replace(
        "    from: base\n", f"    from: base\n    {options}\n"
    )


COMPARES = f"""\
base: base
adapter: {{r: 2, target_modules: [q_proj, v_proj]}}
data: {{format: preference, source: pairs.jsonl, test_source: held_out.jsonl}}
stages:
  - stage: reward_model
    from: base
    loss: contrastive
    trainer: &trainer {{{TRAINER}, {EVALUATES}, per_device_train_batch_size: BATCH}}
  - {{stage: preference, name: kto, from: base, loss: kto, trainer: *trainer}}
"""
ROUNDED = {  # and `online` is scored by a function where rows of one response round others
    "nf4": EACH.replace("base: base\n", "base: base\nquantization: nf4\n", 1),
    "int8": EACH.replace("base: base\n", "base: base\nquantization: int8\n", 1)
    + "    reward: {use: length, most: 3}\n",
    "bf16": EACH.replace("logging_steps: 1", "logging_steps: 1, bf16: true"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("launched", "script"), [({}, ""), (FSDP2, SHARDS)], ids=["copies", "shards"])
def test_losses_that_compare_rows_compare_those_of_both_processes(
    python: Warm, tmp_path: Path, launched: dict[str, str], script: str
) -> None:
    one, two = (prepared(tmp_path / name, COMPARES, BATCH=size) for name, size in (("one", 4), ("two", 2)))
    both = python.together("-c", script + WRITES_THE_SAME, cwd=two, env=ALONE | launched)
    found = [python("-c", WRITES_THE_SAME, cwd=one, env=ALONE), *both]
    assert [each.returncode for each in found] == [0, 0, 0], "".join(each.stderr for each in found)
    assert_same(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("rounds", ROUNDED)
def test_what_is_rounded_is_rounded_alike(python: Warm, tmp_path: Path, rounds: str) -> None:
    both(python, tmp_path, ROUNDED[rounds])
    assert_same(tmp_path / "one", tmp_path / "two", names=COMPARED, near=2e-5)


IN_FLOAT16 = """\
import os, sys
import torch, transformers
from accelerate.utils import AutocastKwargs
of_last = os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)
make, train = transformers.Trainer.create_accelerator_and_postprocess, transformers.Trainer.train
def create_accelerator_and_postprocess(trainer):
    make(trainer)
    accelerator = trainer.accelerator
    accelerator.state._shared_state["_mixed_precision"] = "fp16"
    accelerator.scaler, accelerator.native_amp = torch.amp.GradScaler("cpu", init_scale=1024.0), True
    accelerator.autocast_handler = AutocastKwargs()
class Breaks(transformers.TrainerCallback):
    def on_train_begin(self, args, state, control, model=None, **_):
        def broken(gradient):
            return gradient + torch.inf if of_last and state.global_step == 1 else gradient
        next(each for each in model.parameters() if each.requires_grad).register_hook(broken)
    def on_train_end(self, *_, **__):
        print("ends at a scale of", self.trainer.accelerator.scaler.get_scale(), file=sys.stderr)
def trained(trainer, *given, **named):
    breaks = Breaks()
    breaks.trainer = trainer
    trainer.add_callback(breaks)
    return train(trainer, *given, **named)
transformers.Trainer.create_accelerator_and_postprocess = create_accelerator_and_postprocess
transformers.Trainer.train = trained
"""


@pytest.mark.slow
def test_a_step_in_float16_that_one_process_finds_infinite_is_skipped_by_all(python: Warm, tmp_path: Path) -> None:
    """In each stage the second step is; accelerate scales losses on GPUs alone, so that here the test does."""
    for each in both(python, tmp_path, EACH, IN_FLOAT16):
        assert each.stderr.count("ends at a scale of 512.0") == 4
    assert_same(tmp_path / "one", tmp_path / "two", names=tuple({*COMPARED} - {"grad_norm"}), near=2e-5)


@pytest.mark.slow
def test_a_budget_ends_a_stage_in_all_processes_at_one_step(python: Warm, tmp_path: Path) -> None:
    seconds = EACH[: EACH.index("  - ")] + (
        f"  - {{stage: sft, from: base, budget: {{seconds: 0.2}}, trainer: {{{TRAINER}, max_steps: 10000}}}}\n"
    )
    every = both(python, tmp_path / "flops", with_options(EACH, "budget: {flops: 3.0e+6}"))
    every += both(python, tmp_path / "seconds", seconds)[1:]
    ends = [re.findall(r"budget of .* ended the training at step \d+ of \d+", each.stderr) for each in every]
    assert [len(each) for each in ends] == [4, 4, 4, 1, 1]
    assert ends[0] == ends[1] == ends[2]
    assert ends[3] == ends[4]
    assert_same(tmp_path / "flops/one", tmp_path / "flops/two", names=COMPARED, near=2e-5)


WATCHING = """\
from dataclasses import dataclass
from rlhf_plugins import Alarm, Monitor, hookimpl

@dataclass(frozen=True)
class Watching(Monitor):
    \"\"\"Logs what it sees, slows the training down at two steps, and may stop it.\"\"\"

    stops_at: int = 99

    def build(self, run):
        def watch(step):
            seen = {**step.values, "trained_tokens": step.cost.trained_tokens, "responses": len(step.responses)}
            run.log(step.step, {f"seen/{name}": value for name, value in seen.items()})
            if step.step in (1, 4):
                return Alarm("uneven", action="scale_lr", factor=0.5)
            return Alarm("enough", action="stop") if step.step >= self.stops_at else None
        return watch

@hookimpl
def register_monitor():
    return {"watching": Watching}
"""
STOPPED = (
    "  - {stage: preference, name: ipo, from: base, monitors: [{use: watching, stops_at: 2}], trainer: *trainer}\n"
)


@pytest.mark.slow
def test_monitors_slow_and_stop_and_regularizers_hold_two_processes_as_one(python: Warm, tmp_path: Path) -> None:
    recipe = with_options(EACH, "monitors: [watching]").replace(
        "base: base\n", "base: base\nplugins: [watching.py]\n", 1
    )
    recipe = recipe.replace("monitors: [watching],", "monitors: [watching], regularizers: [l2_sp],")
    both(python, tmp_path, recipe + STOPPED, codes=(2, 2, 2))
    seen = tuple({f"seen/{name}" for name in COMPARED} | {"seen/trained_tokens", "seen/responses"})
    assert_same(tmp_path / "one", tmp_path / "two", names=COMPARED + seen, near=2e-5)
    one, two = (
        [file.read_text() for file in sorted(each.glob("runs/r/*/alarms.jsonl"))] for each in tmp_path.iterdir()
    )
    assert one == two
    assert [text.count("\n") for text in one] == [1, 1, 1, 1, 2]


@pytest.mark.slow
def test_members_of_a_sweep_are_those_of_one_process(python: Warm, tmp_path: Path) -> None:
    sweep = "base: base\nsweep: {stages.sft.trainer.learning_rate: [0.1, 0.2]}\nseeds: [0, 1]\n"
    recipe = EACH[: EACH.index("  - stage: reward")].replace("base: base\n", sweep, 1)
    assert both(python, tmp_path, recipe)[1].stdout.splitlines()[-2:] == [
        "runs/r: 4 finished members",
        "runs/r/report.html",
    ]
    for member in sorted(each.name for each in tmp_path.glob("two/runs/r/*/")):
        for name in ("one", "two"):
            (tmp_path / member / name / "runs").mkdir(parents=True)
            (tmp_path / name / "runs/r" / member).rename(tmp_path / member / name / "runs/r")
        assert_same(tmp_path / member / "one", tmp_path / member / "two", names=COMPARED, near=2e-5)


HALVES = """\
from dataclasses import dataclass, replace
from rlhf_plugins import Stage, StageResult, hookimpl, uses

@dataclass(frozen=True)
class Halves(Stage, makes={"policy"}, processes="several"):
    \"\"\"Trains on some of the prompts, then on the others with the critic and the KL of the first training.\"\"\"

    training: Stage = uses("stage", "online")
    name: str = "halves"

    def run(self, run):
        known, start = run.data.prompts["train"], None
        for number, prompts in enumerate((known[:6], known[6:])):
            data = replace(run.data, prompts={**run.data.prompts, "train": prompts})
            carry = CARRY if start else ()
            made = run.train(self.training, name=f"half{number}", data=data, start=start, carry=carry)
            start = made.name
        return StageResult(policies={self.name: next(iter(made.policies.values()))})

@hookimpl
def register_stage():
    return {"halves": Halves}
"""
IN_HALVES = (
    EACH[: EACH.index("  - {stage: sft")].replace("base: base\n", "base: base\nplugins: [halves.py]\n", 1)
    + "  - stage: halves\n    training:\n      use: online\n      reward: {use: length, most: 3}\n"
    + "      kl: {coef: 0.1, adapt: {target: 0.001, horizon: 10}}\n      value: {adapter: {r: 2}}\n"
    + EACH[EACH.rindex("    tokens_per_batch: 1\n") :].replace("    ", "      ")
)


@pytest.mark.slow
def test_a_critic_and_a_kl_go_on_in_two_processes_as_in_one(python: Warm, tmp_path: Path) -> None:
    """And each word counts: without one of them the second training's numbers are others."""
    made = [prepared(tmp_path / name, IN_HALVES, EVEN, **sizes) for name, sizes in (("one", ONE), ("two", TWO))]
    made += [prepared(tmp_path / name, IN_HALVES, EVEN, **ONE) for name in ("kl", "value")]
    for each, carry in zip(made, ("kl value", "kl value", "kl", "value"), strict=True):
        (each / "halves.py").write_text(HALVES.replace("CARRY", repr(carry.split())))
    one, two, *fewer = made
    words = ("-c", WRITES_THE_SAME)
    found = [python(*words, cwd=each, env=ALONE) for each in (one, *fewer)]
    found += python.together(*words, cwd=two, env=ALONE)
    assert [each.returncode for each in found] == [0] * 5, "".join(each.stderr for each in found)
    assert_same(one, two, names=COMPARED)
    for other in fewer:
        with pytest.raises(AssertionError):
            assert_same(one, other, names=COMPARED)
