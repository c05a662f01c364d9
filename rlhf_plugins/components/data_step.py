"""Steps that leave rows out: prompts without a question, near duplicates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.run_kinds import DataStep
from rlhf_plugins.data.changes.steps import kept, whole, without
from rlhf_plugins.data.fields import content

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data, Group

Share = Annotated[float, Field(ge=0, le=1)]
PLACEHOLDERS = ("lorem ipsum", "[insert", "{{", "<placeholder>")


@dataclass(frozen=True)
class PromptRules(DataStep):
    """Leaves out rows whose prompt breaks a rule; each rule is counted by its name, and null switches it off.

    `too_short` and `too_long` count words, links not among them; `few_letters` is the share of letters and digits among
    the characters, `repetitive` the share of sequences of 3 words that occurred before in the prompt (rules of Rae et
    al. 2021, table A1, for prompts); `placeholder` is a text that a template left.
    """

    min_words: Annotated[Annotated[int, Field(ge=0)] | None, Field(description="fewer: `too_short`")] = 2
    max_words: Annotated[Annotated[int, Field(ge=1)] | None, Field(description="more: `too_long`")] = 2000
    min_letters: Annotated[Share | None, Field(description="a lower share: `few_letters`")] = 0.5
    max_repeated: Annotated[Share | None, Field(description="a higher share: `repetitive`")] = 0.5
    placeholders: Annotated[
        list[Annotated[str, Field(min_length=1)]], Field(description="a prompt with one, in any case: `placeholder`")
    ] = field(default_factory=lambda: list(PLACEHOLDERS))

    def __call__(self, data: Data, seed: int) -> Data:
        """Judges the whole prompt, all turns of a conversation together."""
        return kept(data, self._broken)

    def _broken(self, group: Group) -> str | None:
        """The first rule that a prompt breaks, as it is counted."""
        from rlhf_plugins.data.changes.prompt_rules import letters, repeated, words

        text = content(group.prompt)
        count = len(words(text))
        broken = {
            "too_short": self.min_words is not None and count < self.min_words,
            "too_long": self.max_words is not None and count > self.max_words,
            "few_letters": self.min_letters is not None and letters(text) < self.min_letters,
            "repetitive": self.max_repeated is not None and repeated(text) > self.max_repeated,
            "placeholder": any(one.casefold() in text.casefold() for one in self.placeholders),
        }
        return next((f"prompt_rules: {name}" for name, is_broken in broken.items() if is_broken), None)


@dataclass(frozen=True)
class NearDuplicates(DataStep):
    """Leaves out rows that are nearly the same as an earlier row, or as a held-out one.

    Similarity is Jaccard's: the share of the pieces of `width` characters that both have, of words without case and
    punctuation. It is exact, not estimated as by MinHash. Rows with one and the same prompt are no duplicates by it.
    """

    threshold: Annotated[float, Field(gt=0, le=1, description="least similarity of duplicates")] = 0.8
    over: Annotated[
        Literal["row", "prompt"], Field(description="what is compared: prompt with responses, or the prompt alone")
    ] = "row"
    width: Annotated[int, Field(ge=1, description="characters of a piece")] = 5

    def __call__(self, data: Data, seed: int) -> Data:
        """Keeps the first of several, in the order of the rows."""
        from rlhf_plugins.data.changes.similar import repeats

        seen = list(dict.fromkeys(map(self._text, (*data.test, *data.out_of_distribution))))
        held_out, own = len(seen), [self._text(group) for group in data.train]
        texts = [*seen, *(own if self.over == "row" else dict.fromkeys(own))]
        found = repeats(texts, self.threshold, self.width)
        by_text = dict(zip(texts, found, strict=True))
        places = found[held_out:] if self.over == "row" else [by_text[text] for text in own]
        return without(data, [_near(place, held_out) for place in places])

    def _text(self, group: Group) -> str:
        return whole(group) if self.over == "row" else content(group.prompt)


def _near(place: int | None, held_out: int) -> str | None:
    if place is None:
        return None
    return "near_duplicates: of a held-out row" if place < held_out else "near_duplicates: of an earlier row"


@hookimpl
def register_data_step() -> dict[str, type]:
    """The steps of this file."""
    return {"near_duplicates": NearDuplicates, "prompt_rules": PromptRules}
