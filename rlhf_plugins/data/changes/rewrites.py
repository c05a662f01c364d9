"""Small rewrites of responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from rlhf_plugins.contract.rows import Rewrite


def space_at_end(text: str, rng: np.random.Generator) -> str:
    """One space more at the end."""
    return f"{text} "


def doubled_spaces(text: str, rng: np.random.Generator) -> str:
    """Two spaces for every one."""
    return text.replace(" ", "  ")


def full_stop(text: str, rng: np.random.Generator) -> str:
    """Without its final full stop, or with one where it had none."""
    return text.removesuffix(".") if text.endswith(".") else f"{text}."


def first_letter(text: str, rng: np.random.Generator) -> str:
    """The text with the other case of its first letter."""
    return text[:1].swapcase() + text[1:]


def dropped(text: str, rng: np.random.Generator, rate: float) -> str:
    """Without some words, each dropped with probability `rate`; white space becomes single spaces."""
    words = text.split()
    return " ".join(word for word, hit in zip(words, rng.random(len(words)) < rate, strict=True) if not hit)


def swapped(text: str, rng: np.random.Generator, rate: float) -> str:
    """The text with some words moved behind the next, each with probability `rate`."""
    words = text.split()
    for i in range(len(words) - 1):
        if rng.random() < rate:
            words[i], words[i + 1] = words[i + 1], words[i]
    return " ".join(words)


def doubled(text: str, rng: np.random.Generator, rate: float) -> str:
    """The text with some words repeated, each with probability `rate`."""
    words = text.split()
    hits = rng.random(len(words)) < rate
    return " ".join(f"{word} {word}" if hit else word for word, hit in zip(words, hits, strict=True))


# What a reader would not mind: a reward model's order should survive it.
HARMLESS: dict[str, Rewrite] = {
    "space_at_end": space_at_end,
    "doubled_spaces": doubled_spaces,
    "full_stop": full_stop,
    "first_letter": first_letter,
}
