"""Distillation: the loss by hand, layers that are kept, and a student that is faster and near to its teacher."""

from __future__ import annotations

from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rlhf_transfer.imitation import IGNORED, Collator, imitation_loss, rows
from rlhf_transfer.kept import compared, scored
from rlhf_transfer.student import evenly, of_its_own, teacher_model, with_layers

from rlhf_plugins import Base, PluginError, Prediction, RlhfError, RunError, Samples, Weights, check_recipe, component
from rlhf_plugins.testing import tiny_base, tiny_run


def test_the_loss_by_hand() -> None:
    """t = (1/2, 1/2), s = (3/4, 1/4), the token is the first: CE log 4/3, KL (log 2/3 + log 2) / 2."""
    student, teacher = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 1.0]])
    labels = torch.tensor([0])
    cross, kl = log(4 / 3), (log(2 / 3) + log(2)) / 2
    assert imitation_loss(student, None, labels, 0.0).item() == pytest.approx(cross)
    assert imitation_loss(student, teacher, labels, 1.0).item() == pytest.approx(kl)
    assert imitation_loss(student, teacher, labels, 0.25).item() == pytest.approx(0.75 * cross + 0.25 * kl)


def test_prompts_and_padding_are_not_learned() -> None:
    samples = Samples(["", ""], ["", ""], [[5, 6], [7]], [[8, 1], [9, 8, 1]])
    batch = Collator(0)(rows(samples))
    assert batch["input_ids"].tolist() == [[5, 6, 8, 1], [7, 9, 8, 1]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 8, 1], [IGNORED, 9, 8, 1]]
    assert rows(Samples([""], [""], [[5]], [[]])) == []


@pytest.mark.parametrize(("own", "count", "kept"), [(12, 6, [0, 2, 4, 7, 9, 11]), (3, 2, [0, 2]), (3, 1, [0])])
def test_layers_are_evenly_spaced(own: int, count: int, kept: list[int]) -> None:
    assert evenly(own, count) == kept


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "gemma2"])
def test_a_students_layers_are_its_teachers(architecture: str, tmp_path: Path) -> None:
    sizes = {"n_layer": 3, "num_hidden_layers": 3} if architecture == "gpt2" else {"num_hidden_layers": 3}
    base = tiny_base(tmp_path, architecture, **sizes)
    teacher = teacher_model(Weights("base", base))
    student = with_layers(teacher, 2)
    own, theirs = student.state_dict(), teacher.state_dict()
    last = next(name for name in theirs if ".2." in name)
    assert torch.equal(own[last.replace(".2.", ".1.")], theirs[last])
    assert student.config.num_hidden_layers == 2
    with pytest.raises(RunError, match="the teacher has 3; give fewer"):
        with_layers(teacher, 3)


@pytest.mark.parametrize("unread", [{"label_smoothing_factor": 0.1}, {"eval_strategy": "steps"}])
def test_options_that_nothing_reads_are_refused(unread: dict[str, Any]) -> None:
    stage = {"stage": "distill", "layers": 1, "trainer": unread}
    with pytest.raises(RlhfError, match=f"trainer.{[*unread][0]}: is set by the stage or not read"):
        check_recipe({"base": "sandbox", "data": {"format": "sandbox"}, "output_dir": "x", "stages": [stage]})


def test_what_is_kept_by_hand() -> None:
    """The reference scores 0, the teacher 1 and the student 0.8: 80% of the gain."""
    zero = np.zeros(50)
    found = compared(zero + 1, zero + 0.8, zero)
    assert found.gain.value == pytest.approx(0.8)
    assert (found.against_teacher.value, found.against_reference["student"].value) == (0.0, 1.0)
    assert found.against_reference["student"][1:] == pytest.approx((50 / (50 + 1.959964**2), 1.0))
    assert np.isnan(compared(zero, zero, None).gain.value)


def far(base: Base, folder: Path, distributions: float) -> float:
    """The teacher's mean log-probability of its tokens, less the student's, after a training."""
    trainer = {"max_steps": 24, "learning_rate": 1e-2, "per_device_train_batch_size": 16, "disable_tqdm": True}
    options = {"layers": 1, "prompts": 8, "responses": 8, "max_new_tokens": 8, "trainer": trainer}
    run = tiny_run(base, folder)
    made = component("stage", "distill", distributions=distributions, **options).run(run)
    speed = made.metrics["tokens_per_second"]
    assert min(speed["teacher"], speed["student"]) > 0
    assert made.metrics["weights"]["student"] < made.metrics["weights"]["teacher"]
    teacher, student = run.policy(), run.open("generator", made.policies["distill"])
    samples = teacher.sample(run.data.prompts["test"], 8, max_new_tokens=8, seed=9)
    return float((teacher.log_probs(samples).sum() - student.log_probs(samples).sum()) / len(samples.responses))


@pytest.mark.slow
def test_a_student_learns_its_teachers_answers(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    with_all, alone = (far(base, tmp_path / name, share) for name, share in (("both", 0.9), ("alone", 0.0)))
    cut = with_layers(teacher_model(Weights("base", base)), 1)
    cut.save_pretrained(tmp_path / "cut")
    run = tiny_run(base, tmp_path / "before")
    run.policy().tokenizer.save_pretrained(tmp_path / "cut")  # type: ignore[attr-defined]
    start = run.open("generator", {"use": "trained", "path": str(tmp_path / "cut"), "base": str(tmp_path / "cut")})
    samples = run.policy().sample(run.data.prompts["test"], 8, max_new_tokens=8, seed=9)
    before = float((run.policy().log_probs(samples).sum() - start.log_probs(samples).sum()) / len(samples.responses))
    assert with_all < min(before, alone)


def test_a_student_that_numbers_its_tokens_otherwise_is_refused(tmp_path: Path) -> None:
    base, other = tiny_base(tmp_path / "base"), tiny_base(tmp_path / "student", seed=1)
    words = (tmp_path / "student" / "tokenizer.json").read_text()
    (tmp_path / "student" / "tokenizer.json").unlink()
    (tmp_path / "student" / "tokenizer.json").write_text(words.replace('"ant"', '"cow"'))
    stage = component("stage", "distill", student=other.path, responses=1, max_new_tokens=2)
    with pytest.raises(RunError, match="numbers its tokens otherwise than the teacher's"):
        stage.run(tiny_run(base, tmp_path / "run"))


def test_options_that_contradict_each_other_are_refused() -> None:
    for options in ({}, {"layers": 1, "student": "x"}):
        with pytest.raises(PluginError, match="give this or `student`"):
            component("stage", "distill", **options)


def test_an_answer_without_a_reward_is_no_score() -> None:
    said = Prediction(torch.tensor([1.0, 0.0]), abstained=torch.tensor([False, True]))
    with pytest.raises(RunError, match="abstains on a held-out answer"):
        scored(Samples(["p", "q"], ["a", "b"], [[1], [1]], [[2], [2]]), lambda samples: said, None)


def test_a_student_that_is_pickled_does_not_open(tmp_path: Path) -> None:
    tiny_base(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(RunError, match="distill: student: .* does not load: .*safetensors"):
        of_its_own(str(tmp_path))
