"""The stage `critique_revise`: answers, criticises, revises, and writes accepted revisions as supervised data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from statistics import fmean
from typing import Annotated, Any

from pydantic import Field

from rlhf_constitution.answering import From, Sampling, answers, training_prompts
from rlhf_constitution.assistant import Assistant
from rlhf_constitution.constitution import Constitution, bundled, faults, load
from rlhf_constitution.critic import critic, unreadable
from rlhf_constitution.fluency import fluent
from rlhf_constitution.meaning import same_meaning
from rlhf_constitution.outcome import Ok
from rlhf_constitution.reviser import Reviser
from rlhf_constitution.revision import Check, Draft, Limits, Makers, from_json, revise, to_json
from rlhf_constitution.scoring import Scorer
from rlhf_constitution.texts import Text, plain
from rlhf_plugins import (
    Data,
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

FILE = "revisions.jsonl"  # in the stage's folder: every draft with all its attempts
SHOWN = 8  # drafts in the report


@dataclass(frozen=True)
class CritiqueRevise(Stage, makes={"data"}):
    """The supervised phase of Constitutional AI (Bai et al. 2022, section 3), in which a revision has to be better.

    A revision is accepted only if P rises and no gate is lost; else it is kept with the reason, and not trained on.
    """

    constitution: Annotated[
        str, OnDisk(words=tuple(bundled())), Field(min_length=1, description="a file, or the name of a bundled one")
    ]
    reviser: Reviser = uses("reviser", "samples")
    critic: Assistant | None = uses("assistant", optional=True)
    criticism: Annotated[
        str | None,
        OnDisk(),
        Field(description="a file, the critic's instruction with {principle} and {angle}; null is ours"),
    ] = None
    rounds: Annotated[int, Field(ge=1, description="revisions of an answer, at most, a principle at a time")] = 3
    prompts: Annotated[int, Field(ge=1, description="training prompts that are answered")] = 256
    max_edit: Annotated[float, Field(gt=0, le=1, description="share of words that a revision may change")] = 1.0
    max_perplexity: Annotated[
        Annotated[float, Field(gt=0)] | None,
        Field(description="a revision's perplexity under the policy, at most, as a multiple of the first answer's"),
    ] = None
    meaning: Assistant | None = uses("assistant", optional=True)
    keep_clean: Annotated[bool, Field(description="hand on answers that need no revision too")] = True
    from_: From = "previous"
    sampling: Annotated[Sampling, Field(description="how the prompts are answered")] = field(default_factory=Sampling)
    name: str = "critique_revise"

    def missing(self) -> dict[str, str]:
        """A constitution or an instruction that cannot be read, or that nobody would read."""
        unread = "no `critic` is given, who would read it" if self.criticism and self.critic is None else ""
        found = {"constitution": faults(self.constitution), "criticism": unread or unreadable(self.criticism)}
        return {option: message for option, message in found.items() if message}

    def run(self, run: Run) -> StageResult:
        """Leaves all drafts in `revisions.jsonl`. Raises RunError where nothing was accepted and nothing is clean."""
        constitution = load(self.constitution)
        score = Scorer(constitution, run)
        makers = Makers(self.reviser.acting(run), score)
        if self.critic is not None:
            makers = replace(makers, criticise=critic(self.critic, run, self.criticism))
        checks = list(self.checks(run))

        def make() -> list[dict[str, Any]]:
            prompts, first = self.answers(run)
            scored = score(prompts, first)
            drafts = [Draft.of(*row) for row in zip(prompts, first, scored, strict=True)]
            revised = revise(drafts, constitution, makers, self.rounds, Limits(self.max_edit, tuple(checks)))
            return [to_json(draft) for draft in revised]

        rows = run.once("drafts", make)
        (run.folder / FILE).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        drafts = [from_json(row) for row in rows]
        groups = [group for draft in drafts if (group := self.group(draft, constitution))]
        if not groups:
            raise RunError(f"{self.name}: no revision was accepted and no answer is clean: {reasons(drafts)}")
        return StageResult(
            data=Data(tuple(groups)),
            sections=[*sections(constitution, drafts), *score.sections()],
            metrics=numbers(drafts),
        )

    def checks(self, run: Run) -> Iterator[Check]:
        """What a revision has to keep beside P and the gates."""
        if self.max_perplexity is not None:
            yield fluent(run, self.max_perplexity)
        if self.meaning is not None:
            yield same_meaning(self.meaning, run)

    def answers(self, run: Run) -> tuple[list[Text], list[str]]:
        """Prompts, and the policy's first answer to each."""
        asked = [group.prompt for group in training_prompts(run)[: self.prompts]]
        found = answers(run, asked, 1, self.sampling, None)
        return asked, [text for (text,) in found]

    def group(self, draft: Draft, constitution: Constitution) -> Group | None:
        """An accepted revision above the first answer, or a clean answer alone; None for what is not trained on."""
        origin = Origin(self.name)
        if draft.accepted:
            criticised = [attempt.critique.principle for attempt in draft.accepted]
            columns = {
                "principles": criticised,
                "before": draft.at_first.satisfaction,
                "after": draft.scored.satisfaction,
            }
            both = tuple(as_response(draft.prompt, text) for text in (draft.text, draft.first))
            return Group(draft.prompt, both, ranks=(0, 1), columns=columns, origin=origin)
        clean = draft.scored.satisfaction is not None and not draft.asks(constitution) and draft.text.strip()
        alone = (as_response(draft.prompt, draft.text),)
        return Group(draft.prompt, alone, origin=origin) if self.keep_clean and clean else None


def numbers(drafts: Sequence[Draft]) -> dict[str, float]:
    """What the stage did, in numbers."""
    known = [draft for draft in drafts if draft.scored.satisfaction is not None]
    edits = sorted(draft.accepted[-1].edit for draft in drafts if draft.accepted)
    found = {"answers": float(len(drafts)), "revised": float(len(edits)), "not_scored": float(len(drafts) - len(known))}
    if known:
        found["satisfaction_before"] = fmean(draft.at_first.satisfaction or 0.0 for draft in known)
        found["satisfaction_after"] = fmean(draft.scored.satisfaction or 0.0 for draft in known)
    return found | ({"edit_median": edits[len(edits) // 2]} if edits else {})


def reasons(drafts: Sequence[Draft]) -> str:
    """Why proposals were rejected, the most frequent reason first."""
    found = Counter(one.reason for draft in drafts for one in draft.attempts if not one.accepted)
    return ", ".join(f"{count} x {reason}" for reason, count in found.most_common()) or "no proposal was rejected"


def sections(constitution: Constitution, drafts: Sequence[Draft]) -> list[Section]:
    """Principle by principle before and after, why proposals were rejected, and samples with their critiques."""
    rows = []
    for principle in constitution.principles:
        pairs = [(draft.at_first.outcomes[principle.name], draft.scored.outcomes[principle.name]) for draft in drafts]
        values = [(a.value, b.value) for a, b in pairs if isinstance(a, Ok) and isinstance(b, Ok)]
        if values:
            means = {"before": fmean(a for a, _ in values), "after": fmean(b for _, b in values)}
            broken = {
                f"violations {when}, per 100": 100 * fmean(value[place] < principle.threshold for value in values)
                for place, when in enumerate(("before", "after"))
            }
            rows.append({"principle": principle.name, "level": principle.level, **means, **broken})
    shown = [
        {
            "prompt": plain(draft.prompt),
            "first answer": draft.first,
            "critique": str(draft.accepted[-1].critique),
            "revision": draft.text,
            "difference": difference(draft.first, draft.text),
            "P": f"{draft.at_first.satisfaction or 0:.3f} -> {draft.scored.satisfaction or 0:.3f}",
        }
        for draft in drafts
        if draft.accepted
    ]
    return [
        Section("Principles before and after revision", f"Rejected proposals: {reasons(drafts)}.", rows),
        Section("Revisions", f"{len(shown)} of {len(drafts)} answers were revised.", shown[:SHOWN]),
    ]


def difference(first: str, revision: str) -> str:
    """The words that were taken out, as `[-...-]`, and those that came in, as `[+...+]`, among those that stayed."""
    a, b = first.split(), revision.split()
    parts = []
    for tag, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        gone, new = " ".join(a[i:j]), " ".join(b[k:m])
        parts += [gone] if tag == "equal" else [f"[-{gone}-]"] * bool(gone) + [f"[+{new}+]"] * bool(new)
    return " ".join(parts)


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"critique_revise": CritiqueRevise}
