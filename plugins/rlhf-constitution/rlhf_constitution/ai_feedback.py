"""The stage `ai_feedback`: samples k answers to each prompt, scores them by a constitution, writes preferences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from rlhf_constitution.answering import From, Sampling, answers, training_prompts
from rlhf_constitution.compared import for_people, with_people, with_truth, write_for_people
from rlhf_constitution.constitution import Scored, bundled, faults, load
from rlhf_constitution.feedback import Labels, Pair, pairs
from rlhf_constitution.scoring import Scorer
from rlhf_plugins import (
    Comparison,
    Data,
    Generator,
    Group,
    OnDisk,
    Origin,
    Run,
    RunError,
    Section,
    Stage,
    StageResult,
    as_response,
    hookimpl,
    uses,
)

PEOPLE = "for_people.jsonl"  # in the stage's folder, as `rlhf collect new --prompts` reads it
Row = dict[str, Any]  # a prompt, its responses, and the score of each


@dataclass(frozen=True)
class AIFeedback(Stage, makes={"data"}):
    """Preferences of a constitution (Bai et al. 2022, section 4): pairs with s_i > s_j + gap, and soft labels.

    A response on which a principle abstains or fails is in no pair.
    """

    constitution: Annotated[
        str, OnDisk(words=tuple(bundled())), Field(min_length=1, description="a file, or the name of a bundled one")
    ]
    answers: Annotated[int, Field(ge=2, description="k, responses to a prompt")] = 4
    gap: Annotated[float, Field(ge=0, lt=1, description="epsilon: a pair needs s_i > s_j + gap")] = 0.1
    soft: Annotated[bool, Field(description="write soft labels, not certainty")] = True
    softness: Annotated[float, Field(gt=0, description="t of a soft label sigma((s_i - s_j) / t)")] = 0.2
    clamp: Annotated[float, Field(gt=0.5, le=1, description="the largest soft label")] = 0.95
    confidence: Annotated[float, Field(ge=0, le=1, description="the least confidence of both responses")] = 0.0
    per_prompt: Annotated[int, Field(ge=1, description="pairs of a prompt, at most: the clearest")] = 3
    prompts: Annotated[int, Field(ge=1, description="training prompts that are answered")] = 256
    agreement: Annotated[
        int, Field(ge=0, description="held-out pairs of people that are judged too, to report the agreement")
    ] = 0
    people: Annotated[float, Field(ge=0, lt=1, description="share of the pairs that is set aside for people")] = 0.0
    from_: From = "previous"
    sampling: Annotated[Sampling, Field(description="how the prompts are answered")] = field(default_factory=Sampling)
    explorer: Generator | None = uses("generator", optional=True)
    name: str = "ai_feedback"

    def missing(self) -> dict[str, str]:
        """A constitution that cannot be read."""
        return {"constitution": found} if (found := faults(self.constitution)) else {}

    @property
    def labels(self) -> Labels:
        """How differences become labels."""
        return Labels(self.gap, self.softness, self.clamp, self.confidence)

    def run(self, run: Run) -> StageResult:
        """Raises RunError where no pair is left."""
        score = Scorer(load(self.constitution), run)
        rows = run.once("answers", lambda: self.scored(run, score))
        scored = [[Scored.from_json(one) for one in row["scored"]] for row in rows]
        found = [pairs(one, self.labels)[: self.per_prompt] for one in scored]
        picked = for_people(found, self.people, run.seed)
        if picked:
            write_for_people(run.folder / PEOPLE, rows, found, picked)
        chosen = [[one for at, one in enumerate(row) if (i, at) not in picked] for i, row in enumerate(found)]
        groups = tuple(self.group(row, found) for row, found in zip(rows, chosen, strict=True) if found)
        unscored = sum(one.satisfaction is None for found in scored for one in found)
        if not groups:
            raise RunError(f"{self.name}: no two answers differ by more than {self.gap}; {unscored} are not scored")
        made = [self.section(scored, chosen, unscored, len(picked)), *with_people(run, score, self.agreement)]
        return StageResult(
            data=Data(groups), sections=[*made, *with_truth(run, rows, scored, self.labels), *score.sections()]
        )

    def scored(self, run: Run, score: Scorer) -> list[Row]:
        """Different answers of the policy to each prompt, scored."""
        asked = [group.prompt for group in training_prompts(run)[: self.prompts]]
        found = answers(run, asked, self.answers, self.sampling, self.explorer)
        rows: list[Row] = [
            {"prompt": prompt, "responses": list(dict.fromkeys(texts))}
            for prompt, texts in zip(asked, found, strict=True)
        ]
        flat = [(row["prompt"], text) for row in rows for text in row["responses"]]
        judged = iter(score([prompt for prompt, _ in flat], [text for _, text in flat]))
        return [{**row, "scored": [next(judged).to_json() for _ in row["responses"]]} for row in rows]

    def group(self, row: Row, found: Sequence[Pair]) -> Group:
        """A prompt's answers, with the pairs that were labelled."""
        compared = [
            Comparison(
                pair.better,
                pair.worse,
                margin=max(0.0, pair.difference),
                probability=pair.probability if self.soft else None,
                annotator=self.constitution,
            )
            for pair in found
        ]
        responses = tuple(as_response(row["prompt"], text) for text in row["responses"])
        return Group(row["prompt"], responses, compared=tuple(compared), origin=Origin(self.name))

    def section(
        self, scored: Sequence[Sequence[Scored]], chosen: Sequence[Sequence[Pair]], unscored: int, people: int
    ) -> Section:
        """How many labels were made, and how."""
        flat = [pair for found in chosen for pair in found]
        possible = sum(len(found) * (len(found) - 1) // 2 for found in scored)
        row = {
            "prompts": len(scored),
            "possible pairs": possible,
            "pairs": len(flat),
            "decided by a gate": sum(pair.by_gate for pair in flat),
            "answers not scored": unscored,
            "set aside for people": people,
        }
        return Section("AI feedback", f"Pairs need a gap of {self.gap} in P, or a gate between them.", [row])


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"ai_feedback": AIFeedback}
