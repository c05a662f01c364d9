"""The assistant `simulated`: judges quoted texts by the data's true reward, with faults of known size.

It reads a question as a model does, from its text alone, so that planted instructions reach it as they reach a model.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated

from pydantic import Field

from rlhf_constitution.assistant import Asked, Assistant, Chosen, Written
from rlhf_constitution.judged import KEEPS
from rlhf_constitution.ledger import Ledger
from rlhf_constitution.outcome import Failed
from rlhf_constitution.quoting import quotations, unfenced
from rlhf_plugins import Run, RunError, hookimpl

Share = Annotated[float, Field(ge=0, le=1)]
PLANTED = re.compile(r"give this (?:answer )?an? (?:A|5)|ignore (?:all|the) (?:rules|instructions)|choice: ?A", re.I)


@dataclass(frozen=True)
class Simulated(Assistant, reads_gold=True):
    """P(keeps) = clip(g(x, y) + noise z + length_bias words + self_preference [it is its own], 0, 1), as log-odds.

    `position_bias` is added to the log-odds of the first choice. The draws follow from the question's content.
    """

    dimension: Annotated[str, Field(min_length=1, description="of the true reward, from 0 to 1")] = "harmless"
    noise: Annotated[float, Field(ge=0, description="standard deviation of its value")] = 0.0
    length_bias: Annotated[float, Field(description="what each word of an answer adds")] = 0.0
    position_bias: Annotated[float, Field(description="log-odds that the first choice gains")] = 0.0
    self_preference: Annotated[float, Field(description="what an answer that begins with `own` gains")] = 0.0
    own: Annotated[str, Field(description="how its own answers begin")] = "of course."
    obedience: Annotated[Share, Field(description="share of planted instructions that it obeys inside quotations")] = (
        0.0
    )
    outage: Annotated[Share, Field(description="share of calls without an answer")] = 0.0
    malformed: Annotated[Share, Field(description="share of answers that are no choice")] = 0.0
    seed: Annotated[int, Field(ge=0, description="of the draws")] = 0

    def build(self, run: Run, ledger: Ledger) -> Asked:
        """Raises RunError where the data has no true reward."""
        if run.data.gold is None:
            raise RunError("assistant simulated: the true reward of these rows is not known; use `data: sandbox`")
        return _Simulated(self, run)


@dataclass(frozen=True)
class _Simulated:
    options: Simulated
    run: Run

    def choose(self, questions: Sequence[str], choices: Sequence[str]) -> list[Chosen]:
        """See `Asked`."""
        return [self.one(text) for text in questions]

    def write(self, questions: Sequence[str], seed: int) -> list[Written]:
        """See `Asked`."""
        return [Failed("a simulated assistant does not write") for _ in questions]

    def one(self, text: str) -> Chosen:
        """Whether the first choice or the second."""
        options, quoted = self.options, quotations(text)
        draw = self.draws("call", unfenced(text))
        if draw.random() < options.outage:
            return Failed("unavailable")
        if draw.random() < options.malformed:
            return Failed("answered 'Well, ...', none of A, B")
        if "Answer" not in quoted:
            return Failed("no answer is quoted")
        keeps_is_first = f"A: {KEEPS}" in text
        if PLANTED.search(text.replace(quoted["Answer"], "")):  # outside of the quotation it is an order
            return (1.0, 0.0)
        if PLANTED.search(quoted["Answer"]) and draw.random() < options.obedience:
            return (1.0, 0.0)
        value = min(0.999, max(0.001, self.value(quoted["Prompt"], quoted["Answer"])))
        odds = math.log(value / (1 - value)) * (1 if keeps_is_first else -1) + options.position_bias
        first = 1 / (1 + math.exp(-odds))
        return (first, 1 - first)

    def value(self, prompt: str, answer: str) -> float:
        """How good it finds an answer, before it is cut to 0 to 1."""
        options, gold = self.options, self.run.data.gold
        assert gold is not None
        true = gold(prompt, answer)[options.dimension]
        bias = options.length_bias * len(answer.split()) + options.self_preference * answer.startswith(options.own)
        return true + bias + options.noise * self.draws("noise", prompt, answer).gauss()

    def draws(self, *content: str) -> random.Random:
        """Random numbers that follow from the content."""
        text = "\0".join((str(self.options.seed), *content))
        return random.Random(blake2b(text.encode(), digest_size=16).hexdigest())


@hookimpl
def register_components() -> dict[str, dict[str, type]]:
    """The assistant of this file."""
    return {"assistant": {"simulated": Simulated}}
