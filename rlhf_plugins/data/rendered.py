"""How groups look to a model: what its chat template refuses, makes equal or leaves out, and a few of them whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from rlhf_plugins.contract.rows import Group, Text
from rlhf_plugins.data.lengths import responses_taken
from rlhf_plugins.data.tokens import RowEncoder, as_text
from rlhf_plugins.errors import DataError

UNWRITTEN = "content that the chat template does not write whole"
END = "|"  # between a prompt and its response


def obstacles(groups: Iterable[Group], encoder: RowEncoder) -> dict[str, int]:
    """Responses that no training can use, by reason, and those of which a part is not written."""
    found = Counter[str]()
    for group in groups:
        responses_taken(group.prompt, group.responses, encoder.encode, encoder.fit, found)
        found[UNWRITTEN] += sum(not _written(encoder, group.prompt, response) for response in group.responses)
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


def _written(encoder: RowEncoder, prompt: Text, response: Text) -> bool:
    """Whether the content of messages is in what is tokenized, if they can be; white space does not count."""
    if isinstance(response, str):
        return True
    try:
        ids = encoder.encode(prompt, response)[1]
    except DataError:
        return True
    tokenizer = encoder.tokenizer

    def bare(text: str) -> str:
        return "".join(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]).split())

    seen = "".join(tokenizer.decode(ids).split())
    return all(bare(message["content"]) in seen for message in response if message["content"])
