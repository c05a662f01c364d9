"""The words of the page in every language."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

LANGUAGES = {"en": "English", "zh": "中文", "es": "Español", "ar": "العربية"}
RIGHT_TO_LEFT = {"ar"}
FOLDER = Path(__file__).parent / "words"


@cache
def words(language: str) -> dict[str, str]:
    """The texts of a language by their keys; English where the language is not known."""
    known = language if language in LANGUAGES else "en"
    found: dict[str, str] = json.loads((FOLDER / f"{known}.json").read_text(encoding="utf-8"))
    return found


def speaker(language: str) -> Callable[..., str]:
    """A function that gives a text by its key, with its numbers and names filled in."""

    def say(key: str, **given: object) -> str:
        return words(language)[key].format(**given)

    return say
