"""Renders and tokenizes prompts and responses; no other module does. It knows tokenizers, no model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rlhf_plugins.contract.rows import Group, Samples, Text
from rlhf_plugins.errors import DataError

Ids = tuple[list[int], list[int]]  # of a prompt and of a response


@dataclass(frozen=True)
class RowEncoder:
    """Encodes prompts and responses for one model; `max_tokens` is its limit for both together, None without one."""

    tokenizer: PreTrainedTokenizerBase
    max_tokens: int | None

    def encode(self, prompt: Text, response: Text) -> Ids:
        """Token ids of any length. Raises DataError where messages cannot be tokenized."""
        try:
            return encode(self.tokenizer, prompt, response)
        except (ValueError, TemplateError) as error:  # no chat template, or one that refuses the messages
            raise DataError(f"its messages cannot be tokenized: {str(error).splitlines()[0]}") from error

    def encode_within_limit(self, prompt: Text, response: Text) -> Ids:
        """As `encode`. Raises DataError also for a prompt or response without a token, and above `max_tokens`."""
        ids = self.encode(prompt, response)
        if not all(ids):
            raise DataError(f"its {'response' if ids[0] else 'prompt'} has no token")
        if self.max_tokens is not None and (count := sum(map(len, ids))) > self.max_tokens:
            raise DataError(f"has {count} tokens, and the model takes {self.max_tokens}")
        return ids


def samples_of(groups: Iterable[Group], encoder: RowEncoder) -> Samples:
    """Every response of the groups in order, with its group's columns. Raises DataError where one cannot be taken."""
    from rlhf_plugins.data.fields import by_name

    groups = list(groups)
    columns = by_name([group.columns for group in groups for _ in group.responses])
    rows = [(g.prompt, r, *encoder.encode_within_limit(g.prompt, r)) for g in groups for r in g.responses]
    prompts, responses, prompt_ids, response_ids = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [])
    return Samples(prompts, [as_text(response) for response in responses], prompt_ids, response_ids, columns)


def encoded(prompts: Sequence[Text], responses: Sequence[Text], encoder: RowEncoder) -> Samples:
    """One response to each prompt. Raises DataError as `samples_of` does, and where their numbers differ."""
    if len(prompts) != len(responses):
        raise DataError(f"{len(responses)} responses for {len(prompts)} prompts")
    for prompt, response in zip(prompts, responses, strict=True):
        if isinstance(prompt, str) != isinstance(response, str):
            raise DataError("a prompt and its response must both be text or both be messages")
    return samples_of((Group(p, (r,)) for p, r in zip(prompts, responses, strict=True)), encoder)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> list[int]:
    """Token ids that generation starts from: messages go through the chat template, text is tokenized as it is."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    return list(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"])


def encode(tokenizer: PreTrainedTokenizerBase, prompt: Text, response: Text) -> Ids:
    """Token ids of a prompt and of a given response, EOS included.

    If the end of the prompt merges with the start of the response, the merged token belongs to the response. Tokens
    that a chat template writes after EOS are left out, because no sampled response has them. The tokenizer of an
    encoder (it has CLS and SEP) gives `[CLS] prompt [SEP]` and `response [SEP]`.
    """
    if encodes_pairs(tokenizer):
        return _encode_pair(tokenizer, as_text(prompt), as_text(response))
    if isinstance(prompt, str):
        whole = list(tokenizer(prompt + _with_eos(tokenizer, str(response)))["input_ids"])
    else:
        assert not isinstance(response, str)
        whole = list(tokenizer.apply_chat_template([*prompt, *response], return_dict=True)["input_ids"])
    alone = encode_prompt(tokenizer, prompt)
    shared = next((i for i, (a, b) in enumerate(zip(alone, whole, strict=False)) if a != b), len(alone))
    return whole[:shared], _through_last(whole[shared:], tokenizer.eos_token_id)


def encodes_pairs(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer belongs to an encoder, which separates the two texts of a pair with CLS and SEP."""
    return tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None


def as_text(text: Text) -> str:
    """Text unchanged, messages as `role: content` lines; a single message as its content alone."""
    if isinstance(text, str):
        return text
    return text[0]["content"] if len(text) == 1 else "\n".join(f"{m['role']}: {m['content']}" for m in text)


def _through_last(ids: list[int], token: int) -> list[int]:
    """The ids up to and including the last occurrence of `token`; all of them if it does not occur."""
    last = next((i for i in reversed(range(len(ids))) if ids[i] == token), len(ids) - 1)
    return ids[: last + 1]


def _with_eos(tokenizer: PreTrainedTokenizerBase, response: str) -> str:
    end = str(tokenizer.eos_token)
    return response if response.endswith(end) else response + end


def _encode_pair(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> Ids:
    encoded = tokenizer(prompt, response, truncation=False)
    second = encoded.sequence_ids().index(1) if 1 in encoded.sequence_ids() else len(encoded["input_ids"]) - 1
    return list(encoded["input_ids"][:second]), list(encoded["input_ids"][second:])
