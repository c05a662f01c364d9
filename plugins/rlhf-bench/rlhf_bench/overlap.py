"""The tasks `bleu` and `rouge_l`: how many words of a given answer a policy's own answer has."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from rlhf_plugins import DataFormat, Group, Policy, Run, RunError, Task, hookimpl, uses


@dataclass(frozen=True)
class _Overlap(Task):
    """An answer to each prompt beside the answers that the data gives; of judged responses, the best one."""

    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    rows: Annotated[int, Field(ge=2, description="prompts, the first ones; without `data` those held out")] = 200
    max_new_tokens: Annotated[int, Field(ge=1, description="where an answer is cut")] = 64
    temperature: Annotated[float, Field(ge=0, description="of sampling; 0 decodes greedily")] = 0.0
    name: str = ""

    def score(self, answer: str, references: Sequence[str]) -> float:
        """From 0 to 1."""
        raise NotImplementedError

    def sampled(self) -> tuple[int, int]:
        """An answer to each row."""
        return self.rows, self.max_new_tokens

    def build(self, run: Run) -> Callable[[Policy], Sequence[float]]:
        """Raises RunError where no row has an answer."""
        groups = run.data.test if self.data is None else self.data.load_in(run).groups
        given = references(groups)
        if not given:
            raise RunError(f"task {self.name}: no row has an answer to compare with")
        asked = list(given.values())[: self.rows]
        prompts = [prompt for prompt, _ in asked]

        def overlap(policy: Policy) -> list[float]:
            samples = policy.sample(
                prompts, temperature=self.temperature, max_new_tokens=self.max_new_tokens, seed=run.seed
            )
            pairs = zip(samples.responses, asked, strict=True)
            return [self.score(answer, texts) for answer, (_, texts) in pairs]

        return overlap


@dataclass(frozen=True)
class Bleu(_Overlap):
    """BLEU (Papineni et al. 2002) of each answer by sacrebleu, over the orders that it has n-grams of.

    The mean of answers is not the BLEU of a corpus, whose n-grams are counted together.
    """

    name: str = "bleu"

    def score(self, answer: str, references: Sequence[str]) -> float:
        """sacrebleu's, as a share of 1."""
        from sacrebleu.metrics.bleu import BLEU

        return min(BLEU(effective_order=True).sentence_score(answer, list(references)).score / 100, 1.0)


@dataclass(frozen=True)
class RougeL(_Overlap):
    """ROUGE-L (Lin 2004), 2 LCS / (m + n) of words in lower case without stemming, of the closest given answer."""

    name: str = "rouge_l"

    def score(self, answer: str, references: Sequence[str]) -> float:
        """1 less the normalised distance of insertions and deletions, which is the same number."""
        from rapidfuzz.distance import Indel

        return max(Indel.normalized_similarity(_words(answer), _words(text)) for text in references)


def references(groups: Sequence[Group]) -> dict[str, tuple[Group, list[str]]]:
    """Each prompt with the answers that it is given: single responses, and the best one of several."""
    from rlhf_plugins import best_response

    found: dict[str, tuple[Group, list[str]]] = {}
    for group in groups:
        best = best_response(group)
        if best is not None:
            text = best if isinstance(best, str) else str(best[-1]["content"])
            _, texts = found.setdefault(str(group.prompt), (group, []))
            texts += [text] * (text not in texts)
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@hookimpl
def register_task() -> dict[str, type]:
    """The tasks of this file."""
    return {"bleu": Bleu, "rouge_l": RougeL}
