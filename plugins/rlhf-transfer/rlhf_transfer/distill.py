"""The stage `distill`: a smaller policy learns from a larger one's responses; what it keeps and gains is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from rlhf_plugins import DataFormat, Earlier, Run, RunError, Samples, Section, Stage, StageResult, hookimpl, uses
from rlhf_transfer.kept import Kept, compared, scored, speeds
from rlhf_transfer.recovered import Estimate

From = Annotated[
    Annotated[
        str, Field(description="the teacher: `base`, `previous` (the last stage that made a policy), or a policy")
    ],
    Earlier("policy", ("base", "previous")),
]
UNREAD = frozenset(  # options that the loss here, and a training without held-out rows, do not read
    {
        *("label_names", "label_smoothing_factor", "remove_unused_columns", "resume_from_checkpoint"),
        *("eval_strategy", "eval_steps", "eval_on_start", "eval_delay", "do_eval", "per_device_eval_batch_size"),
        *("load_best_model_at_end", "metric_for_best_model", "greater_is_better", "trust_remote_code"),
    }
)
ABOUT = (
    "{prompts} held-out prompts, one response each, judged by {judge}. Tokens per second are medians of "
    "rounds in which the two take turns on this machine. The student has {share:.0%} of the teacher's weights."
)


@dataclass(frozen=True)
class Distill(Stage, makes={"policy"}, reserved=frozenset({"output_dir", "seed", *UNREAD})):
    """A smaller policy is trained on what a larger one answers, and on its distribution of each token.

    On responses alone it is sequence-level distillation (Kim and Rush 2016), with `distributions` also token-level
    (Hinton et al. 2015), on the teacher's own samples. The student is cut from the teacher (`layers`), or a model of
    its own (`student`), which needs the teacher's tokenizer.
    """

    layers: Annotated[
        Annotated[int, Field(ge=1)] | None, Field(description="of the teacher that the student begins with")
    ] = None
    student: Annotated[str | None, Field(description="a folder or hub name of a smaller model, instead of layers")] = (
        None
    )
    distributions: Annotated[
        float, Field(ge=0, le=1, description="share of KL(teacher || student) in the loss, the rest imitates tokens")
    ] = 0.5
    responses: Annotated[int, Field(ge=1, description="of the teacher to each training prompt")] = 4
    temperature: Annotated[float, Field(gt=0, description="of all responses")] = 1.0
    max_new_tokens: Annotated[int, Field(ge=1, description="where a response is cut")] = 64
    prompts: Annotated[int, Field(ge=2, description="held-out prompts that teacher and student answer")] = 128
    from_: From = "previous"
    reference: Annotated[
        Annotated[str, Field(description="what teacher and student are compared with: `base` or an earlier policy")],
        Earlier("policy", ("base",)),
    ] = "base"
    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    name: str = "distill"
    trainer: dict[str, Any] = field(default_factory=dict, metadata={"config": "transformers.TrainingArguments"})

    def __post_init__(self) -> None:
        if (self.layers is None) == (self.student is None):
            raise ValueError("layers: give this or `student`, one of the two")

    def run(self, run: Run) -> StageResult:
        """Leaves the student in `model/`, a whole model with its tokenizer.

        Raises:
            RunError: there is no prompt, nothing to judge by, or a student that does not fit the teacher.
        """
        asked = run.data.prompts.get("train", ())
        held_out = run.data.prompts.get("test", ())[: self.prompts]
        if not asked or len(held_out) < 2:
            raise RunError(f"{self.name}: its data have no prompts to train on, or fewer than two that are held out")
        judge = self._judge(run)
        teacher: Any = run.policy()
        student, sizes, curves = self._trained(run, teacher, self._answers(teacher, asked, run.seed, self.responses))
        folder = run.folder / "model"
        student.save_pretrained(folder)
        teacher.tokenizer.save_pretrained(folder)
        spec = {"use": "trained", "path": str(folder), "base": str(folder)}
        both = {"teacher": teacher, "student": run.open("generator", spec)}
        judged = dict(both)
        if run.weights("start") != run.weights("reference"):
            judged["reference"] = run.reference()
        worth = {
            name: scored(self._answers(policy, held_out, run.seed + 1), judge, run.data.gold)
            for name, policy in judged.items()
        }
        kept = compared(worth["teacher"], worth["student"], worth.get("reference"), run.seed)
        speed = speeds(both, held_out, run.seed, max_new_tokens=self.max_new_tokens)
        named = "the true reward" if run.data.gold else "the run's reward model"
        text = ABOUT.format(prompts=len(held_out), judge=named, share=sizes[1] / sizes[0])
        return StageResult(
            policies={self.name: spec},
            sections=[Section("Distilled", text, table(kept, speed))],
            curves=curves,
            metrics=numbers(kept, speed, sizes),
        )

    def _judge(self, run: Run) -> Any:
        if run.data.gold is not None:
            return None
        if not any(result.rewards for result in run.finished):
            raise RunError(
                f"{self.name}: nothing to judge by: no true reward, and no earlier stage made a reward model"
            )
        judge: Any = run.reward()
        if judge.compares:
            raise RunError(
                f"{self.name}: aggregation {judge.compares} compares the responses to a prompt, and each policy's are "
                "scored alone: let the last reward model be one that does so, such as an ensemble with aggregation mean"
            )
        return judge.predict

    def _answers(self, policy: Any, prompts: Any, seed: int, count: int = 1) -> Samples:
        options = {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens}
        found: Samples = policy.sample(prompts, count, seed=seed, **options)
        return found

    def _trained(self, run: Run, policy: Any, samples: Samples) -> tuple[Any, tuple[int, int], Any]:
        """The student, the weights of teacher and student, and the curves. `policy` is the teacher, which sampled."""
        import torch
        from transformers import TrainingArguments

        from rlhf_transfer.imitation import Collator, Imitation, rows
        from rlhf_transfer.student import of_its_own, teacher_model, with_layers

        torch.manual_seed(run.seed)
        teacher = teacher_model(run.weights("start"))
        student = of_its_own(str(self.student)) if self.layers is None else with_layers(teacher, self.layers)
        if student.config.vocab_size != teacher.config.vocab_size:
            both = f"{student.config.vocab_size} and {teacher.config.vocab_size}"
            raise RunError(f"{self.name}: {self.student} and {self.from_} have other vocabularies, of {both} tokens")
        tokenizer = policy.tokenizer
        if self.student is not None:
            self._refuse_other_tokens(tokenizer)
        ours = {"logging_steps": 10, "save_strategy": "no", "report_to": [], "remove_unused_columns": False}
        args = TrainingArguments(output_dir=str(run.folder), seed=run.seed, **{**ours, **self.trainer})
        trainer = Imitation(
            student,
            args,
            train_dataset=rows(samples),
            data_collator=Collator(int(tokenizer.pad_token_id)),
            teacher=teacher.to(args.device) if self.distributions else None,
            share=self.distributions,
        )
        curves = run.fit(trainer)
        sizes = tuple(sum(each.numel() for each in model.parameters()) for model in (teacher, student))
        return student, (sizes[0], sizes[1]), curves

    def _refuse_other_tokens(self, tokenizer: Any) -> None:
        """Raises RunError where the student has a tokenizer whose tokens are others than the teacher's."""
        from transformers import AutoTokenizer

        try:
            own = AutoTokenizer.from_pretrained(str(self.student)).get_vocab()
        except (OSError, ValueError):  # it has none, and takes the teacher's
            return
        if own != tokenizer.get_vocab():
            raise RunError(
                f"{self.name}: the tokenizer of {self.student} numbers its tokens otherwise than the teacher's"
            )


def table(kept: Kept, speed: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row for each policy."""
    found = []
    for name, score in kept.scores.items():
        wins = {"against the teacher": kept.against_teacher if name == "student" else None}
        wins["against the reference"] = kept.against_reference.get(name)
        shown = {column: "-" if each is None else _shown(each) for column, each in wins.items()}
        rate = round(speed[name], 1) if name in speed else "-"
        found.append({"policy": name, "score": round(score, 4), **shown, "tokens/s": rate})
    if kept.gain.value == kept.gain.value:
        found.append({"policy": "share of the teacher's gain kept", "score": _shown(kept.gain)})
    return found


def numbers(kept: Kept, speed: Mapping[str, float], sizes: tuple[int, int]) -> dict[str, Any]:
    """For the report's metrics."""
    known = kept.gain.value == kept.gain.value
    return {
        "scores": dict(kept.scores),
        "win_rate_against_teacher": kept.against_teacher._asdict(),
        "win_rate_against_reference": {name: each._asdict() for name, each in kept.against_reference.items()},
        "gain_kept": kept.gain._asdict() if known else None,
        "tokens_per_second": dict(speed),
        "speedup": speed["student"] / speed["teacher"],
        "weights": {"teacher": sizes[0], "student": sizes[1]},
    }


def _shown(found: Estimate) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"distill": Distill}
