"""Principles that a program decides from the text alone."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from rlhf_constitution.outcome import Ok, Outcome
from rlhf_constitution.principle import Principle
from rlhf_plugins import hookimpl

ROUNDING = 1e-9  # allowed where a share is compared with a threshold
Count = Annotated[int, Field(ge=1)]
SomeTexts = Annotated[list[str], Field(min_length=1, description="words or phrases, in any case")]


@dataclass(frozen=True)
class LengthBand(Principle):
    """1 where the response has `low` to `high` words; n / low below, high / n above."""

    low: Count = 1
    high: Count = 200

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low: {self.low} words at least and {self.high} at most, which no response has")

    def __call__(self, prompt: str, response: str) -> Outcome:
        count = len(response.split())
        if count < self.low:
            return Ok(count / self.low, why=f"it has {count} words, fewer than {self.low}", fix="say more")
        if count > self.high:
            return Ok(self.high / count, why=f"it has {count} words, more than {self.high}", fix="leave something out")
        return Ok(1.0)

    def conflict(self, other: Principle) -> str:
        """Two bands that do not meet, or a required text that is too long."""
        low, high = self.kept
        if isinstance(other, LengthBand) and low > other.kept[1]:
            return f"{self.low} to {self.high} words, and {other.low} to {other.high}"
        if isinstance(other, Required):
            longest = sorted(other.texts, key=lambda text: len(text.split()))[-1 - other.spare]
            return f"{self.high} words at most, and {longest!r} is required" if len(longest.split()) > high else ""
        return ""

    @property
    def kept(self) -> tuple[int, int]:
        """The fewest and the most words that keep the gate."""
        return math.ceil(self.low * self.threshold - ROUNDING), int(self.high / self.threshold + ROUNDING)


@dataclass(frozen=True)
class Matches(Principle):
    """1 where a regular expression is found in the response, else 0: the format that is asked for."""

    pattern: Annotated[str, Field(min_length=1, description="regular expression")]
    asked: Annotated[str, Field(description="the format in words, for critiques")] = "the format that is asked for"

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern: no regular expression: {error}") from error

    def __call__(self, prompt: str, response: str) -> Outcome:
        if re.search(self.pattern, response, re.MULTILINE):
            return Ok(1.0)
        return Ok(0.0, why=f"it is not in {self.asked}", fix=f"write it in {self.asked}")


@dataclass(frozen=True)
class Forbidden(Principle):
    """0 where the response holds one of the texts, else 1."""

    texts: SomeTexts

    def __call__(self, prompt: str, response: str) -> Outcome:
        found = held(self.texts, response)
        if not found:
            return Ok(1.0)
        return Ok(0.0, why=f"it says {found[0]!r}", where=found[0], fix=f"leave out {found[0]!r}")

    def conflict(self, other: Principle) -> str:
        """More required texts that hold a forbidden one than may be missing."""
        if not isinstance(other, Required):
            return ""
        bad = [text for text in other.texts if held(self.texts, text)]
        if len(bad) <= other.spare:
            return ""
        return f"{bad[0]!r} is required, and it holds the forbidden {held(self.texts, bad[0])[0]!r}"


@dataclass(frozen=True)
class Required(Principle):
    """The share of the texts that the response holds."""

    texts: SomeTexts

    @property
    def spare(self) -> int:
        """How many of the texts may be missing where the gate is kept."""
        return int(len(self.texts) * (1 - self.threshold) + ROUNDING)

    def __call__(self, prompt: str, response: str) -> Outcome:
        missing = [text for text in self.texts if not held([text], response)]
        if not missing:
            return Ok(1.0)
        share = 1 - len(missing) / len(self.texts)
        return Ok(share, why=f"it does not say {missing[0]!r}", fix=f"say {missing[0]!r}")


@dataclass(frozen=True)
class Repetition(Principle):
    """The share of the response's n-grams that occur in it for the first time; too short to repeat is 1."""

    n: Count = 3

    def __call__(self, prompt: str, response: str) -> Outcome:
        words = response.lower().split()
        grams = [tuple(words[at : at + self.n]) for at in range(len(words) - self.n + 1)]
        again = next((gram for place, gram in enumerate(grams) if gram in grams[:place]), None)
        if again is None:
            return Ok(1.0)
        where = " ".join(again)
        return Ok(len(set(grams)) / len(grams), why=f"it repeats {where!r}", where=where, fix="say it once")


@dataclass(frozen=True)
class Cites(Principle):
    """The share of the known facts about the prompt's words that the response cites; not applicable without one."""

    facts: Annotated[dict[str, str], Field(min_length=1, description="a word of a prompt -> the text to cite")]

    def __call__(self, prompt: str, response: str) -> Outcome | None:
        asked = [fact for word, fact in self.facts.items() if held([word], prompt)]
        missing = [fact for fact in asked if not held([fact], response)]
        if not asked:
            return None
        if not missing:
            return Ok(1.0)
        share = 1 - len(missing) / len(asked)
        return Ok(share, why=f"it does not cite {missing[0]!r}", fix=f"cite {missing[0]!r}")


def held(texts: Sequence[str], response: str) -> list[str]:
    """Returns the texts that a response holds as whole words, in upper or lower case."""
    return [text for text in texts if re.search(rf"(?<!\w){re.escape(text)}(?!\w)", response, re.IGNORECASE)]


@hookimpl
def register_components() -> dict[str, dict[str, type]]:
    """The principles of this file."""
    return {
        "principle": {
            "cites": Cites,
            "forbidden": Forbidden,
            "length_band": LengthBand,
            "matches": Matches,
            "repetition": Repetition,
            "required": Required,
        }
    }
