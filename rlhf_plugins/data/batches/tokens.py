"""Renders and tokenizes prompts and responses; no other module does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rlhf_plugins.contract.rows import LEARNED, Group, Samples, Text
from rlhf_plugins.contract.run import Lengths
from rlhf_plugins.data.turns import CALLS, TOOLS, as_response, as_text
from rlhf_plugins.data.values import by_name
from rlhf_plugins.errors import DataError

Ids = tuple[list[int], list[int]]  # of a prompt and of a response
SOME_TEXT = "Is it 12 + 3?\n  Naïve, she said."  # which tokenizers of one vocabulary may cut otherwise
ANSWER = "Zq7"  # a response that no template writes itself
MARK = re.compile(r"[<\[].+[>\]]")  # how a token looks that is no text, also where its tokenizer does not say so
TOO_LONG = "response longer than max_length"
TOO_LONG_FOR_MODEL = "response longer than the model takes"


@dataclass(frozen=True)
class Fit:
    """What a model and a recipe together can take.

    Args:
        lengths: the lengths of the recipe.
        model: the most tokens that the model takes; None has no limit.
        bos: the token that begins every prompt, and stays where a prompt is cut.
    """

    lengths: Lengths = Lengths()
    model: int | None = None
    bos: int | None = None

    @property
    def most(self) -> int | None:
        """Tokens that a prompt with a response may have."""
        return min((most for most in (self.model, self.lengths.max_length) if most), default=None)

    def prompt(self, ids: list[int]) -> list[int] | None:
        """A prompt, without its first tokens where too long ones are cut; None where they are left out."""
        most = self.lengths.max_prompt_length
        if most is None or len(ids) <= most:
            return ids
        if self.lengths.truncation == "drop":
            return None
        kept = ids[:1] if ids[0] == self.bos and most > 1 else []
        return kept + ids[len(ids) - most + len(kept) :]

    def response(self, prompt: int, ids: list[int]) -> list[int] | None:
        """A response behind `prompt` tokens, without its last ones where too long ones are cut; None as above."""
        room = len(ids) if self.most is None else self.most - prompt
        if len(ids) <= room:
            return ids
        return ids[:room] if self.lengths.truncation == "cut" and room > 0 else None

    def reason(self, tokens: int) -> str:
        """Why a prompt with a response of so many tokens in all is left out."""
        return TOO_LONG_FOR_MODEL if self.model is not None and tokens > self.model else TOO_LONG


@dataclass(frozen=True)
class RowEncoder:
    """Encodes prompts and responses for one model.

    Args:
        tokenizer: the tokenizer of the model.
        max_tokens: the most tokens that the model takes; None without a limit.
        lengths: the lengths of the recipe.
    """

    tokenizer: PreTrainedTokenizerBase
    max_tokens: int | None
    lengths: Lengths = Lengths()

    @property
    def fit(self) -> Fit:
        """What is too long."""
        return Fit(self.lengths, self.max_tokens, self.tokenizer.bos_token_id)

    def encode(self, prompt: Text, response: Text) -> Ids:
        """Token ids of any length. Raises DataError where messages cannot be tokenized."""
        with _refusals():
            return encode(self.tokenizer, prompt, response)

    def encode_start(self, prompt: Text) -> list[int]:
        """Token ids that generation starts from, of any number. Raises DataError as `encode` does."""
        with _refusals():
            return encode_prompt(self.tokenizer, prompt)

    def encode_within_limit(self, prompt: Text, response: Text) -> Ids:
        """`encode`, cut where the recipe says so. Raises DataError also for what has no token or is too long."""
        ids = self.encode(prompt, response)
        if not all(ids):
            raise DataError(f"its {'response' if ids[0] else 'prompt'} has no token")
        shared = self.fit.prompt(ids[0])
        if shared is None:
            raise DataError(
                f"its prompt has {len(ids[0])} tokens, and max_prompt_length is {self.lengths.max_prompt_length}"
            )
        rest = self.fit.response(len(shared), ids[1])
        if rest is None:
            raise DataError(f"has {len(shared) + len(ids[1])} tokens, and the model takes {self.fit.most}")
        return shared, rest


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (ValueError, TemplateError) as error:  # no chat template, or one that refuses the messages
        raise DataError(f"its messages cannot be tokenized: {str(error).splitlines()[0]}") from error


def samples_of(groups: Iterable[Group], encoder: RowEncoder) -> Samples:
    """Every response of the groups in order, with its group's columns. Raises DataError where one cannot be taken."""
    groups = list(groups)
    columns = by_name([group.columns for group in groups for _ in group.responses])
    rows = [(g.prompt, r, *encoder.encode_within_limit(g.prompt, r)) for g in groups for r in g.responses]
    prompts, responses, prompt_ids, response_ids = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [])
    return Samples(prompts, [as_text(response) for response in responses], prompt_ids, response_ids, columns)


def encoded(prompts: Sequence[Text | Group], responses: Sequence[Text], encoder: RowEncoder) -> Samples:
    """One response to each prompt; a group in its place brings its columns, and a text answers messages.

    Raises:
        DataError: as `samples_of` does, where their numbers differ, where messages answer a text, and where a message
            has no text or a role that no template knows.
    """
    if len(prompts) != len(responses):
        raise DataError(f"{len(responses)} responses for {len(prompts)} prompts")
    asked = [each if isinstance(each, Group) else Group(each) for each in prompts]
    pairs = enumerate(zip(asked, responses, strict=True))
    return samples_of((_answered(number, *pair) for number, pair in pairs), encoder)


def _answered(number: int, asked: Group, response: Text) -> Group:
    """The group with one response, and its messages as those of a data set are read."""
    if isinstance(asked.prompt, str) and not isinstance(response, str):
        raise DataError(f"responses[{number}]: a prompt and its response must both be text or both be messages")
    prompt = _read_messages(f"prompts[{number}]", asked.prompt)
    answer = _read_messages(f"responses[{number}]", as_response(prompt, response))
    return Group(prompt, (answer,), columns=asked.columns)


def _read_messages(where: str, text: Text) -> Text:
    from rlhf_plugins.data.messages import messages

    return text if isinstance(text, str) else messages(where, "it", text)


def cut_responses(samples: Samples, longest: int) -> Samples:
    """The samples, with responses that are too long cut before their last token.

    Raises:
        DataError: a prompt leaves no room for a response.
    """
    rooms = [longest - len(ids) for ids in samples.prompt_ids]
    if min(rooms, default=1) < 1:
        raise DataError(f"a prompt has {longest - min(rooms)} tokens, and the model takes {longest} with a response")
    rows = zip(samples.response_ids, rooms, strict=True)
    return replace(samples, response_ids=[ids if len(ids) <= n else [*ids[: n - 1], ids[-1]] for ids, n in rows])


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> list[int]:
    """Token ids that generation starts from: messages go through the chat template, text is tokenized as it is.

    An EOS that a tokenizer writes behind every text is left out, since a response follows.
    """
    if isinstance(prompt, str):
        ids, end = _ids(tokenizer, prompt), tokenizer.eos_token_id
        added = ids[-1:] == [end] and not encodes_pairs(tokenizer) and not prompt.endswith(str(tokenizer.eos_token))
        return ids[:-1] if added else ids
    return _rendered(tokenizer, prompt, add_generation_prompt=True)


def encode(tokenizer: PreTrainedTokenizerBase, prompt: Text, response: Text) -> Ids:
    """Token ids of a prompt and of a given response, its end included.

    If the end of the prompt merges with the start of the response, the merged token belongs to the response. A response
    in messages ends with the token that closes a turn in the chat template, or else with EOS, which is added where a
    template writes neither; what a template writes after that is left out, because no sampled response has it. A text
    gets EOS where it does not end with an end, and is never cut. The tokenizer of an encoder (it has CLS and SEP) gives
    `[CLS] prompt [SEP]` and `response [SEP]`.
    """
    if encodes_pairs(tokenizer):
        return _encode_pair(tokenizer, as_text(prompt), as_text(response))
    if isinstance(prompt, str):
        whole = _ended_once(tokenizer, _ids(tokenizer, prompt + _with_end(tokenizer, str(response))))
    else:
        assert not isinstance(response, str)
        whole = _rendered(tokenizer, [*prompt, *response])
    alone = encode_prompt(tokenizer, prompt)
    shared = next((i for i, (a, b) in enumerate(zip(alone, whole, strict=False)) if a != b), len(alone))
    rest = whole[shared:]
    return whole[:shared], rest if isinstance(prompt, str) else _closed(tokenizer, rest)


def response_ends(tokenizer: PreTrainedTokenizerBase, *configs: Any) -> list[int]:
    """Every token that ends a response, in order of number; nothing else decides it.

    These are the tokenizer's EOS, the token that closes a turn in its chat template, and the `eos_token_id` of each
    configuration, which is a number, a list or None.
    """
    ends = {tokenizer.eos_token_id, turn_end(tokenizer)}
    for config in configs:
        given = getattr(config, "eos_token_id", None)
        ends |= set(given) if isinstance(given, list | tuple) else {given}
    return sorted(end for end in ends if end is not None)


def without_end(samples: Samples, tokenizer: PreTrainedTokenizerBase) -> list[bool]:
    """Whether each response in the tokenizer's tokens was cut where it was sampled: what ends one is not its last."""
    marks = {token for token, text in tokenizer.added_tokens_decoder.items() if text.special}
    ends = {*marks, *tokenizer.all_special_ids} - {tokenizer.unk_token_id} | {*response_ends(tokenizer)}
    return [not ids or ids[-1] not in ends for ids in samples.response_ids]


def unended(samples: Samples, cut: Sequence[bool], tokenizer: PreTrainedTokenizerBase) -> Samples:
    """The samples, those that were cut without their end; an encoder's separator ends every text and stays."""
    ends = {*response_ends(tokenizer)} - {tokenizer.sep_token_id}
    pairs = zip(samples.response_ids, cut, strict=True)
    return replace(
        samples, response_ids=[ids[:-1] if out and len(ids) > 1 and ids[-1] in ends else ids for ids, out in pairs]
    )


def alike(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether the ids that one writes are those of the other: also their templates and what begins and ends a text."""
    if one.get_vocab() != other.get_vocab() or one.chat_template != other.chat_template:
        return False
    if _ids(one, SOME_TEXT) != _ids(other, SOME_TEXT):  # only one of them may write its BOS
        return False
    marks = [(each.bos_token_id, each.eos_token_id, response_ends(each)) for each in (one, other)]
    return marks[0] == marks[1]


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The first special token that the chat template writes after a response; None where it writes none."""
    if tokenizer.chat_template is None:
        return None
    return _turn_end(tokenizer, str(tokenizer.chat_template), str(tokenizer.eos_token))


def rendered_by(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], bool]:
    """Whether a text looks like what the chat template makes of a prompt, for many texts.

    It has the end of a turn or ends as a prompt does; any text does where the template writes no more than is said.
    """
    end, asked = turn_end(tokenizer), [{"role": "user", "content": ANSWER}]
    try:
        whole = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    except (ValueError, TemplateError):  # reported where a row is rendered
        return lambda _: False
    before, _, after = whole.rpartition(ANSWER)
    closes, opens = None if end is None else _name(tokenizer, end), after.strip()
    if not (before.removeprefix(str(tokenizer.bos_token)) + opens).strip():
        return lambda _: True
    return lambda text: (closes is not None and closes in text) or (bool(opens) and text.rstrip().endswith(opens))


def encodes_pairs(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer belongs to an encoder, which separates the two texts of a pair with CLS and SEP."""
    return tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None


def template_to_end(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The chat template, changed to end where a response ends: what a reader of whole conversations needs.

    Unchanged where it writes nothing behind the end of the last turn.
    """
    template, end = tokenizer.chat_template, turn_end(tokenizer)
    if not isinstance(template, str) or (
        end is not None and _text_after(tokenizer).strip(" ") == _name(tokenizer, end)
    ):
        return template
    if end is None:
        closed = "{{ conversation + eos_token }}"
    else:
        name = json.dumps(_name(tokenizer, end))
        ended = "parts[0] + parts[1] if parts[1] else conversation + eos_token"
        closed = f"{{% set parts = conversation.rpartition({name}) %}}{{{{ {ended} }}}}"
    whole = f"{{% set conversation %}}{template}{{% endset %}}"
    return f"{whole}{{% if add_generation_prompt %}}{{{{ conversation }}}}{{% else %}}{closed}{{% endif %}}"


def _name(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    return str(tokenizer.convert_ids_to_tokens(token))


def _text_after(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template writes behind a response; empty where it refuses to write one."""
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ANSWER}]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False)).rpartition(ANSWER)[2]
    except (ValueError, TemplateError):  # reported where a row is rendered
        return ""


@lru_cache(maxsize=16)
def _turn_end(tokenizer: PreTrainedTokenizerBase, template: str, eos: str) -> int | None:
    added = tokenizer.added_tokens_decoder.items()
    marks = {token for token, text in added if text.special or MARK.fullmatch(text.content)}
    special = {*marks, tokenizer.eos_token_id} - {tokenizer.unk_token_id}
    ids = tokenizer(_text_after(tokenizer), add_special_tokens=False)["input_ids"]
    return next((int(token) for token in ids if token in special), None)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text; one that begins with BOS, as rendered text does, gets no second one."""
    ids, bos = list(tokenizer(text)["input_ids"]), tokenizer.bos_token_id
    return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Any, **options: Any) -> list[int]:
    """The ids of messages and of the tools that the first one carries. Raises DataError if the template drops one."""
    if not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template; give a `chat_template`, or take a chat model")
    tools = messages[0].get(TOOLS) if messages else None
    bare = [{k: v for k, v in m.items() if k not in (TOOLS, LEARNED)} for m in messages]

    def render(rows: Any, given: Any) -> list[int]:
        return list(tokenizer.apply_chat_template(rows, tools=given, return_dict=True, **options)["input_ids"])

    ids = render(bare, tools)
    if tools and render(bare, None) == ids:
        raise DataError(f"its {TOOLS} are not written by the chat template")
    if (
        any(CALLS in m for m in bare)
        and render([{k: v for k, v in m.items() if k != CALLS} for m in bare], tools) == ids
    ):
        raise DataError(f"its {CALLS} are not written by the chat template")
    return ids


def _ended_once(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """The ids of a text that ends with an end token, without a further EOS that some tokenizers add."""
    ends = response_ends(tokenizer)
    return ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] and ids[-2:-1] and ids[-2] in ends else ids


def _closed(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """The ids of a response up to and including its last end; EOS is added where it has none."""
    for end in (turn_end(tokenizer), int(tokenizer.eos_token_id)):
        if end in ids:
            return ids[: len(ids) - ids[::-1].index(end)]
    return [*ids, int(tokenizer.eos_token_id)] if ids else ids


def _with_end(tokenizer: PreTrainedTokenizerBase, response: str) -> str:
    """A response with EOS; one that was rendered before keeps its own end."""
    known = tokenizer.convert_ids_to_tokens(response_ends(tokenizer))
    bare = response.rstrip()
    return bare if bare.endswith(tuple(known)) else response + str(tokenizer.eos_token)


def _encode_pair(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> Ids:
    encoded = tokenizer(prompt, response, truncation=False)
    second = encoded.sequence_ids().index(1) if 1 in encoded.sequence_ids() else len(encoded["input_ids"]) - 1
    return list(encoded["input_ids"][:second]), list(encoded["input_ids"][second:])
