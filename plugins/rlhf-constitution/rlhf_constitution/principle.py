"""The kind `principle`: a rule that a response keeps to some degree, with its place in a constitution."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from rlhf_constitution.outcome import Abstain, Failed, NotApplicable, Ok, Outcome
from rlhf_constitution.texts import Text, plain
from rlhf_plugins import Component, PluginError, Run, as_response, hookimpl, trait

if TYPE_CHECKING:
    from rlhf_constitution.asking import Asker

Texts = Sequence[str]
Judged = Callable[[Texts, Texts], list[Outcome]]  # prompts and responses, one outcome for each
JudgedAsWritten = Callable[[Sequence[Text], Sequence[Text]], list[Outcome]]
PASSING = 0.5  # the value from which an example counts as kept, where there is no gate


@dataclass(frozen=True, kw_only=True)
class Principle(Component, kind="principle"):
    """A rule. A component defines `__call__` or, where it needs the run or many responses at once, `build`."""

    asks: ClassVar[bool] = trait(False, "asks the constitution's assistant, which its `build` is given after the run")
    as_written: ClassVar[bool] = trait(
        False, "what it builds is given messages as messages, prompts and responses; else all are plain text"
    )

    name: Annotated[str, Field(description="in reports; empty is the class's name")] = ""
    level: Annotated[Literal["base", "domain", "rule"], Field(description="how general it is")] = "rule"
    weight: Annotated[float, Field(gt=0, description="w, its share in P and in the weighted sum")] = 1.0
    priority: Annotated[str, Field(description="a word of the constitution's `order`, which a gate needs")] = ""
    gate: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None,
        Field(description="a response below it loses to any above it, before P is compared"),
    ] = None
    angle: Annotated[
        Literal["content", "style", "compliance"], Field(description="the kind of critique that it makes")
    ] = "compliance"
    when: Annotated[
        str | None, Field(description="regular expression; the principle applies to prompts that contain it")
    ] = None
    passes: Annotated[list[tuple[str, str]], Field(description="prompts and responses that keep it")] = field(
        default_factory=list
    )
    fails: Annotated[list[tuple[str, str]], Field(description="prompts and responses that break it")] = field(
        default_factory=list
    )

    def __call__(self, prompt: str, response: str) -> Outcome | float | None:
        """0 to 1, None where it does not apply, or an outcome."""
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> Any:
        """An outcome, or one for each response. Raises PluginError for anything else."""
        if inputs and not isinstance(inputs[0], str):
            answers = list(answer)
            if len(answers) != len(inputs[1]):
                raise PluginError(
                    f"principle {self.recipe_name}: {len(answers)} outcomes of {len(inputs[1])} responses"
                )
            return [self._outcome(one) for one in answers]
        return self._outcome(answer)

    def _outcome(self, answer: Any) -> Outcome:
        if answer is None:
            return NotApplicable()
        if isinstance(answer, Ok | NotApplicable | Abstain | Failed):
            return answer
        try:
            return Ok(float(answer))
        except (TypeError, ValueError) as error:
            raise PluginError(f"principle {self.recipe_name}: {error}") from error

    def conflict(self, other: Principle) -> str:
        """Why no response can keep the gates of this principle and of another one; empty where that is not known."""
        return ""

    def fresh(self, draw: int) -> Principle:
        """The same principle with noise drawn again, where it has any: a winner is scored with another draw."""
        return self

    @property
    def threshold(self) -> float:
        """From which value a response counts as keeping it."""
        return PASSING if self.gate is None else self.gate

    def read(self, prompt: Text, response: Text) -> tuple[Text, Text]:
        """A prompt and a response in the form that it reads."""
        if not self.as_written:
            return plain(prompt), plain(response)
        return prompt, as_response(prompt, response)

    def applies(self, prompt: str) -> bool:
        """Whether it says anything about responses to this prompt."""
        return self.when is None or re.search(self.when, prompt, re.IGNORECASE) is not None


def bound(principle: Principle, run: Run | None, ask: Asker | None = None) -> JudgedAsWritten:
    """A function from many prompts and responses to outcomes; a response may be text where its prompt is messages.

    Raises RunError where the run lacks what it needs.
    """
    if principle.builds:
        acts: Any = principle.acting(run, ask) if principle.asks else principle.acting(run)
    else:

        def acts(prompts: Texts, responses: Texts) -> list[Any]:
            return [principle(*pair) for pair in zip(prompts, responses, strict=True)]

    def judged(prompts: Sequence[Text], responses: Sequence[Text]) -> list[Outcome]:
        places = [place for place, prompt in enumerate(prompts) if principle.applies(plain(prompt))]
        found: list[Outcome] = [NotApplicable()] * len(prompts)
        if places:
            rows = [principle.read(prompts[place], responses[place]) for place in places]
            answers = acts([prompt for prompt, _ in rows], [response for _, response in rows])
            for place, answer in zip(places, answers, strict=True):
                found[place] = answer
        return found

    return judged


@hookimpl
def register_kind() -> dict[str, type]:
    """The kind of this file."""
    return {"principle": Principle}
