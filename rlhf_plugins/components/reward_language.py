"""A reward for the language of a response, recognised by its script and by small words. No model, no download."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.run_kinds import Reward
from rlhf_plugins.errors import nearest

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Samples
    from rlhf_plugins.contract.run import Run
    from rlhf_plugins.contract.run_kinds import RewardFunction

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
SCRIPTS = {  # of languages that a script alone tells from the others here: how the names of its letters begin
    "ar": ("ARABIC",),
    "el": ("GREEK",),
    "he": ("HEBREW",),
    "hi": ("DEVANAGARI",),
    "ja": ("HIRAGANA", "KATAKANA"),
    "ko": ("HANGUL",),
    "ru": ("CYRILLIC",),
    "th": ("THAI",),
    "zh": ("CJK",),
}
WORDS = {  # frequent words of languages in Latin letters
    "de": "der die das und ist nicht ein eine zu den mit von für auf im sich auch wie ich wir sie es dem werden aber",
    "en": "the and is of to in that it for was with as on are this be you not have from we they but or an at",
    "es": "el la los las de que y en un una es por con para no se del al lo como más pero su sus fue está",
    "fr": "le la les des de et est un une que qui dans pour pas sur il elle nous vous avec au aux ce cette sont mais",
    "it": "il lo la gli le di che e è un una per non con del della sono come anche più ma si nel alla questo",
    "nl": "de het een en van is dat niet op te zijn voor met die aan er maar ook als bij naar wordt deze wij",
    "pt": "o a os as de que e em um uma é não para com por do da no na se mais como mas foi são",
}
VOCABULARY = {name: frozenset(words.split()) for name, words in WORDS.items()}


@dataclass(frozen=True)
class Language(Reward):
    """1 where the response is written in a language, 0 where it is in another, or has no letters.

    Most letters decide the script; among languages in Latin letters the most frequent of their small words decide, and
    `least` of all words must be among them. A few words are too few to tell: use it on whole sentences.
    """

    language: Annotated[str, Field(description="ar de el en es fr he hi it ja ko nl pt ru th zh")] = "en"
    least: Annotated[float, Field(ge=0, le=1, description="share of small words, in Latin letters")] = 0.1

    def __post_init__(self) -> None:
        names = (*SCRIPTS, *VOCABULARY)
        if self.language not in names:
            raise ValueError(f"language: unknown {self.language!r} {nearest(self.language, names)}")

    def build(self, run: Run) -> RewardFunction:
        """A function from B samples to B numbers."""

        def score(samples: Samples) -> Sequence[float | None]:
            return [float(guessed(text, self.least) == self.language) for text in samples.responses]

        return score


def guessed(text: str, least: float) -> str | None:
    """The language of a text; None where it has no letters, or too few small words."""
    letters = Counter(_script(letter) for letter in text if letter.isalpha())
    if not letters:
        return None
    if letters["ja"] and letters["ja"] + letters["zh"] > letters.total() / 2:  # Japanese has Chinese letters too
        return "ja"
    script, _ = letters.most_common(1)[0]
    if script != "latin":
        return script
    words = [word.lower() for word in WORD.findall(text)]
    shares = {name: sum(word in small for word in words) / len(words) for name, small in VOCABULARY.items()}
    best = max(shares, key=shares.__getitem__)
    return best if shares[best] >= max(least, 1e-9) else None


def _script(letter: str) -> str:
    name = unicodedata.name(letter, "")
    if name.startswith("LATIN"):
        return "latin"
    return next((language for language, begins in SCRIPTS.items() if name.startswith(begins)), "other")


@hookimpl
def register_reward() -> dict[str, type]:
    """The reward of this file."""
    return {"language": Language}
