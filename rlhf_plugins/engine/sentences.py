"""Which sentence each token of a sequence is in, by the marks that end one."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rlhf_plugins.errors import RunError

SURE = re.compile(r"(?:[!?\u3002\uff01\uff1f\u2026][\"'\u201d\u2019)\]]*\s*|\n\s*)$")  # what ends a text
STOP = re.compile(r"\.[\"'\u201d\u2019)\]]*\s*$")
GOES_ON = re.compile(r"[a-z0-9]")
SPACES = ("\u0120", "\u2581", " ")  # how vocabularies write a space before a word
ENDS, MAY_END, CONTINUES = (
    1,
    2,
    4,
)  # of a token: it ends a sentence; it does unless the next one continues; it continues


class SentenceEnds(nn.Module):
    """Numbers sentences. The marks of a vocabulary are saved, so that no tokenizer is needed later.

    A sentence ends after `!`, `?`, an ellipsis, their Chinese forms, or a line; after a full stop unless a small letter
    or a digit follows without a space, as in 3.5. Where the response begins does not count: a classifier that was
    exported does not know it.

    Args:
        vocabulary: ids of tokens.
    """

    marks: Tensor  # (vocabulary,)

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("marks", torch.zeros(vocabulary, dtype=torch.uint8))

    def read(self, tokenizer: Any) -> None:
        """Marks the tokens of a tokenizer. Raises RunError where none can end a sentence."""
        count = min(len(tokenizer), len(self.marks))
        written = tokenizer.convert_ids_to_tokens(range(count))
        read = [tokenizer.decode([i]) for i in range(count)]
        special = set(tokenizer.all_special_ids)
        spaced = any(token is not None and token.startswith(SPACES) for token in written)
        pairs = enumerate(zip(written, read, strict=True))
        found = [0 if i in special else _mark(str(token), text, spaced) for i, (token, text) in pairs]
        if not any(mark & (ENDS | MAY_END) for mark in found):
            raise RunError("multi_scale: no token of the tokenizer ends a sentence; set `window`, in tokens")
        self.marks[:count] = torch.tensor(found, dtype=torch.uint8)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, L) ids from the left, and what is there -> (B, L) numbers of sentences from 0."""
        marks = self.marks[ids] * mask
        continued = pad(marks[:, 1:] & CONTINUES > 0, (0, 1))
        ends = (marks & ENDS > 0) | ((marks & MAY_END > 0) & ~continued)
        return pad(ends[:, :-1], (1, 0)).long().cumsum(1)


def _mark(written: str, read: str, spaced: bool) -> int:
    """The mark of a token, given as the vocabulary writes it and as it reads; `spaced`: the vocabulary has spaces."""
    mark = ENDS if SURE.search(read) else MAY_END if STOP.search(read) else 0
    if spaced:
        attached = not written.startswith(SPACES) and GOES_ON.match(read) is not None
    else:  # BERT's marks what continues a word, and tells 3.5 from no 3. 5
        attached = written.startswith("##") or read[:1].isdigit()
    return mark | (CONTINUES if attached else 0)
