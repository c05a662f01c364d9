"""The principle `judged`: an assistant decides in one token whether a response keeps a rule, in both orders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from rlhf_constitution.asking import Asker
from rlhf_constitution.assistant import Chosen
from rlhf_constitution.outcome import Abstain, Failed, Ok, Outcome
from rlhf_constitution.principle import Judged, Principle, Texts
from rlhf_constitution.quoting import question
from rlhf_plugins import Run, hookimpl

CHOICES = ("A", "B")
AGREEMENT = 0.3
INSTRUCTION = "Does the answer to the prompt keep this rule: {rule}\nChoose A or B.\nA: {a}\nB: {b}"
KEEPS, BREAKS = "it keeps the rule", "it breaks the rule"


@dataclass(frozen=True)
class ByAssistant(Principle, asks=True):
    """(P(keeps | keeps is A) + P(keeps | keeps is B)) / 2, so that a liking for a letter cancels out.

    The confidence is 1 less the difference of the two; where it is below `agreement`, the judge abstains.
    """

    rule: Annotated[str, Field(min_length=1, description="in a sentence, such as: it does not invent facts")]
    agreement: Annotated[float, Field(ge=0, le=1, description="of the two orders, at least")] = AGREEMENT
    draw: Annotated[int, Field(ge=0, description="a number in the question; another one asks again")] = 0

    def build(self, run: Run, ask: Asker | None = None) -> Judged:
        """Raises RunError where the constitution names no assistant."""
        assert ask is not None

        def judge(prompts: Texts, responses: Texts) -> list[Outcome]:
            rows = list(zip(prompts, responses, strict=True))
            texts = [self.question(*row, *both) for both in ((KEEPS, BREAKS), (BREAKS, KEEPS)) for row in rows]
            found = ask.choose(texts, CHOICES)
            return [self.outcome(found[i], found[i + len(prompts)]) for i in range(len(prompts))]

        return judge

    def question(self, prompt: str, response: str, a: str, b: str) -> str:
        """The rule, and the texts as quotations."""
        again = f" (reading {self.draw + 1})" if self.draw else ""
        instruction = INSTRUCTION.format(rule=self.rule + again, a=a, b=b)
        return question(instruction, {"Prompt": prompt, "Answer": response}, "Choice:")

    def outcome(self, first: Chosen, swapped: Chosen) -> Outcome:
        """The mean of both orders, or why there is none."""
        found = in_both_orders(first, swapped, self.agreement)
        if not isinstance(found, Ok):
            return found
        return replace(found, why=f"it may not keep the rule {self.rule!r}", fix="keep that rule")

    def fresh(self, draw: int) -> ByAssistant:
        """Asked once more, past the cache."""
        return replace(self, draw=self.draw + draw)


def in_both_orders(first: Chosen, swapped: Chosen, agreement: float = AGREEMENT) -> Ok | Abstain | Failed:
    """The mean probability of what is A in the first order and B in the second; no value where they disagree."""
    if isinstance(first, Failed):
        return first
    if isinstance(swapped, Failed):
        return swapped
    one, other = first[0], swapped[1]
    confidence = 1 - abs(one - other)
    if confidence < agreement:
        return Abstain(f"the answer depends on the order of the choices: {one:.2f} and {other:.2f}")
    return Ok((one + other) / 2, confidence)


@hookimpl
def register_components() -> dict[str, dict[str, type]]:
    """The principle of this file."""
    return {"principle": {"judged": ByAssistant}}
