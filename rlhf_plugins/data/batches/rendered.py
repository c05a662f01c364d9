"""How groups look to a model: what its chat template refuses, makes equal or leaves out, and a few of them whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf_plugins.contract.rows import Group, Text
from rlhf_plugins.data.batches.lengths import responses_taken
from rlhf_plugins.data.batches.tokens import RowEncoder, encodes_pairs, rendered_by
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.turns import as_text
from rlhf_plugins.errors import DataError, RlhfError

UNWRITTEN = "content that the chat template does not write whole"
OTHERS = ("name", "reasoning_content", "thinking")  # fields with a text of their own that some templates write
RESTARTED = "prompt that the chat template ends otherwise for sampling than before a given response"
LOST = "{} that the chat template does not write"  # one of these fields
PARTLY = frozenset({UNWRITTEN, RESTARTED, *map(LOST.format, OTHERS)})  # reasons for which no row is left out
END = "|"  # between a prompt and its response


def obstacles(groups: Iterable[Group], encoder: RowEncoder) -> Dropped:
    """Responses that no training can use, by reason, and those of which a part is not written; with their places."""
    found = Dropped()
    for group in groups:
        reasons = Counter[str]()
        responses_taken(group.prompt, group.responses, encoder.encode, encoder.fit, reasons)
        if not group.responses:
            reasons.update(_unasked(encoder, group.prompt))
        for response in group.responses:
            reasons.update(_unwritten(encoder, group.prompt, response))
        for reason, count in (+reasons).items():
            found.add(reason, str(group.origin or "a row without an origin"))
            found[reason] += count - 1
    return found


def is_usable(group: Group, encoder: RowEncoder) -> bool:
    """Whether something can be learned of a row: a prompt can be asked, or enough of its responses are taken."""
    if not group.responses:
        return not any(_unasked(encoder, group.prompt))
    taken = responses_taken(group.prompt, group.responses, encoder.encode, encoder.fit, Counter())
    return taken is not None and len(taken[0]) >= min(2, len(group.responses))


def unrendered(groups: Iterable[Group], load: Callable[[], PreTrainedTokenizerBase], base: str, cure: str) -> str:
    """A warning where all rows are text and the base has a chat template that rendered none of them; else empty.

    Args:
        groups: with the prompts.
        load: gives the base's tokenizer, where all prompts are text; one that does not load is another's to report.
        base: the base as the warning names it.
        cure: what makes messages of the rows.
    """
    prompts = [group.prompt for group in groups]
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if not texts or len(texts) < len(prompts):
        return ""
    try:
        tokenizer = load()
    except RlhfError:
        return ""
    if not tokenizer.chat_template or encodes_pairs(tokenizer) or any(map(rendered_by(tokenizer), texts)):
        return ""
    plain = f"the rows are text, so that the chat template of {base} renders none of them, as with TRL"
    return f"{plain}; {cure} for prompts as the user's turns and responses as the assistant's"


def fields_lost(groups: Iterable[Group], encoder: Callable[[], RowEncoder]) -> dict[str, int]:
    """Rows with fields of messages, such as `name`, that the chat template does not write, by field.

    The encoder is asked for only where a row has such a field.
    """
    found = Counter[str]()
    for group in groups:
        talks = [talk for talk in (group.prompt, *group.responses) if not isinstance(talk, str)]
        if any(message.get(name) for talk in talks for message in talk for name in OTHERS):
            lost = {why for text in group.responses or ([],) for why in _unwritten(encoder(), group.prompt, text)}
            found.update(lost & set(map(LOST.format, OTHERS)))
    return dict(found)


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


def _unasked(encoder: RowEncoder, prompt: Text) -> Iterator[str]:
    """Why a prompt alone cannot be asked; nothing where it can."""
    try:
        encoder.encode_start(prompt)
    except DataError as error:
        yield f"prompt: {str(error).removeprefix('its ')}"


def _unwritten(encoder: RowEncoder, prompt: Text, response: Text) -> Iterator[str]:
    """What of a conversation is not in its tokens, if it has any, each kind once; white space does not count."""
    if isinstance(prompt, str) or isinstance(response, str):
        return
    try:
        start = encoder.encode_start(prompt)
        first, second = encoder.encode(prompt, response) if response else (start, [])
    except DataError:
        return
    tokenizer = encoder.tokenizer

    def bare(ids: Sequence[int]) -> str:
        return "".join(tokenizer.decode(ids).split())

    def is_lost(text: Any, seen: str) -> bool:
        return bool(text) and bare(tokenizer(text, add_special_tokens=False)["input_ids"]) not in seen

    sides = ((prompt, bare(first)), (response, bare(second)))
    if any(is_lost(message["content"], seen) for talk, seen in sides for message in talk):
        yield UNWRITTEN
    for name in OTHERS:
        if any(is_lost(message.get(name), seen) for talk, seen in sides for message in talk):
            yield LOST.format(name)
    if not (bare(first) + bare(second)).startswith(bare(start)):
        yield RESTARTED
