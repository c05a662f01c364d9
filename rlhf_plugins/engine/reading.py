"""What a reward model can read: token ids of prompts and responses, and how many it takes. It knows no judgement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import AutoConfig, PreTrainedTokenizerBase

from rlhf_plugins.contract.interfaces import Base, Group, Samples, Text
from rlhf_plugins.data.ranked import NO_TOKEN, part
from rlhf_plugins.engine.loading import load_tokenizer
from rlhf_plugins.engine.sampling import plain, reads_pairs, written_ids
from rlhf_plugins.errors import DataError

Ids = tuple[list[int], list[int]]  # of a prompt and of a response


@dataclass(frozen=True)
class Reader:
    """Gives token ids as the model is given them; `longest` is the most that it takes of both, None without a limit."""

    tokenizer: PreTrainedTokenizerBase
    longest: int | None

    def written(self, prompt: Text, response: Text) -> Ids:
        """Raises DataError where messages cannot be tokenized."""
        try:
            return written_ids(self.tokenizer, prompt, response)
        except (ValueError, TemplateError) as error:  # no chat template, or one that refuses the messages
            raise DataError(f"its messages cannot be tokenized: {str(error).splitlines()[0]}") from error

    def __call__(self, prompt: Text, response: Text) -> Ids:
        """As `written`. Raises DataError also where nothing is left of prompt or response."""
        ids = self.written(prompt, response)
        if not all(ids):
            raise DataError(f"its {'response' if ids[0] else 'prompt'} has no token")
        return ids

    def within(self, prompt: Text, response: Text) -> Ids:
        """As a call. Raises DataError also where the model takes fewer tokens."""
        ids = self(prompt, response)
        if self.longest is not None and (count := sum(map(len, ids))) > self.longest:
            raise DataError(f"has {count} tokens, and the model takes {self.longest}")
        return ids


def reader_of(base: Base) -> Reader:
    """How the base reads."""
    tokenizer = load_tokenizer(base)
    config = AutoConfig.from_pretrained(base.path, trust_remote_code=base.trust_remote_code)
    return Reader(tokenizer, longest(config, tokenizer))


def longest(config: Any, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most tokens that a model takes; an encoder's tokenizer knows where positions do not start at 0."""
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    limits = [most, tokenizer.model_max_length if reads_pairs(tokenizer) else None]
    return min((limit for limit in limits if limit), default=None)


def readable(groups: Iterable[Group], reader: Reader) -> tuple[list[Group], dict[str, int]]:
    """The groups with those of their responses that the model can read, and how many it cannot, by reason."""
    found, left_out = [], Counter[str]()
    for group in groups:
        reasons = [_unreadable(reader, group.prompt, response) for response in group.responses]
        left_out.update(filter(None, reasons))
        if kept := [place for place, reason in enumerate(reasons) if reason is None]:
            found.append(part(group, kept))
    return found, dict(left_out)


def _unreadable(reader: Reader, prompt: Text, response: Text) -> str | None:
    """Why the model cannot read a response; None if it can."""
    try:
        ids = reader.written(prompt, response)
    except DataError as error:
        return str(error).removeprefix("its ")
    if not all(ids):
        return NO_TOKEN
    too_long = reader.longest is not None and sum(map(len, ids)) > reader.longest
    return "response longer than the model takes" if too_long else None


def samples_of(groups: Iterable[Group], reader: Reader) -> Samples:
    """Every response of the groups in order. Raises DataError for one that the model cannot read."""
    rows = [(g.prompt, r, *reader.within(g.prompt, r)) for g in groups for r in g.responses]
    prompts, responses, prompt_ids, response_ids = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [])
    return Samples(prompts, [plain(response) for response in responses], prompt_ids, response_ids)
