"""Finds texts that are nearly the same: exactly, by shared pieces of text.

Two texts of a similarity of at least t share a piece among their first (1 - t) n + 1 of n, in an order that both have
(prefix filtering, Chaudhuri et al. 2006): only texts that do are compared, so that the rare pieces, which come first,
leave few. Unlike MinHash nothing is estimated: no pair is missed, and none is left out by chance.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import ceil

WORD = re.compile(r"\w+")


def pieces(text: str, width: int) -> frozenset[str]:
    """Every `width` characters in a row of the text's words, without case and punctuation; a shorter text whole."""
    plain = " ".join(WORD.findall(text.casefold()))
    return frozenset(plain[i : i + width] for i in range(max(1, len(plain) - width + 1)))


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """The share of all pieces that both have (Jaccard 1901)."""
    both = len(one & other)
    return both / (len(one) + len(other) - both)


def repeats(texts: Sequence[str], threshold: float, width: int) -> list[int | None]:
    """For each text the place of the first earlier text that is no repeat and as similar; None where there is none.

    Args:
        texts: in order; the first of several alike is kept.
        threshold: least similarity, above 0 and at most 1.
        width: characters of a piece.
    """
    found = [pieces(text, width) for text in texts]
    order = _rare_first(found)
    index: dict[str, list[int]] = {}  # piece -> texts that are no repeats and have it among their first
    repeated: list[int | None] = []
    for place, own in enumerate(found):
        first = sorted(own, key=order.__getitem__)[: len(own) - ceil(threshold * len(own) - 1e-9) + 1]
        near = (other for other in _candidates(first, index) if similarity(own, found[other]) >= threshold)
        repeated.append(next(near, None))
        if repeated[-1] is None:
            for piece in first:
                index.setdefault(piece, []).append(place)
    return repeated


def _rare_first(found: Iterable[frozenset[str]]) -> dict[str, int]:
    count = Counter(piece for own in found for piece in own)
    return {piece: place for place, piece in enumerate(sorted(count, key=lambda piece: (count[piece], piece)))}


def _candidates(first: Sequence[str], index: dict[str, list[int]]) -> Iterator[int]:
    """Earlier texts that share one of these pieces, in order."""
    yield from sorted({other for piece in first for other in index.get(piece, ())})
