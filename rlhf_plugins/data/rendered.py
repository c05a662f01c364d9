"""How groups look to a model: what its chat template refuses, makes equal or leaves out, and a few of them whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from rlhf_plugins.contract.rows import Group, Text
from rlhf_plugins.data.ranked import EQUAL, NO_TOKEN, TOO_LONG_FOR_MODEL
from rlhf_plugins.data.tokens import RowEncoder, as_text
from rlhf_plugins.errors import DataError

UNWRITTEN = "content that the chat template does not write whole"
END = "|"  # between a prompt and its response


def obstacles(groups: Iterable[Group], encoder: RowEncoder) -> dict[str, int]:
    """Responses that no training can use, by reason, and those of which a part is not written."""
    found = Counter[str]()
    for group in groups:
        seen: set[tuple[int, ...]] = set()
        for response in group.responses:
            try:
                prompt, ids = encoder.encode(group.prompt, response)
            except DataError as error:
                found[str(error).removeprefix("its ")] += 1
                continue
            whole = (*prompt, *ids)
            found[NO_TOKEN] += not (prompt and ids)
            found[EQUAL] += whole in seen
            found[TOO_LONG_FOR_MODEL] += encoder.max_tokens is not None and len(whole) > encoder.max_tokens
            found[UNWRITTEN] += not _written(encoder, response, ids)
            seen.add(whole)
    return dict(+found)


def looks(groups: Sequence[Group], encoder: RowEncoder | None, count: int = 3) -> Iterator[str]:
    """A few groups, each response in a line: as text, or as the tokens of an encoder decode."""
    for group in islice(groups, count):
        for response in group.responses or ("",):
            yield repr(_look(group.prompt, response, encoder))


def _look(prompt: Text, response: Text, encoder: RowEncoder | None) -> str:
    if encoder is None or not response:
        return f"{as_text(prompt)}{END}{as_text(response)}"
    try:
        return END.join(encoder.tokenizer.decode(ids) for ids in encoder.encode(prompt, response))
    except DataError as error:
        return f"({error})"


def _written(encoder: RowEncoder, response: Text, ids: Sequence[int]) -> bool:
    """Whether the content of messages is in what was tokenized; white space does not count."""
    if isinstance(response, str):
        return True
    tokenizer = encoder.tokenizer

    def bare(text: str) -> str:
        return "".join(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]).split())

    seen = "".join(tokenizer.decode(list(ids)).split())
    return all(bare(message["content"]) in seen for message in response if message["content"])
