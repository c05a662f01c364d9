"""Sampling from a causal language model, many prompts at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from rlhf_plugins.contract.rows import Samples, Text
from rlhf_plugins.contract.sampling import CUTS, SamplingOptions, changed, fault, options_of
from rlhf_plugins.data.batches.tokens import RowEncoder, response_ends
from rlhf_plugins.engine import cost
from rlhf_plugins.engine.cpu.decoding import draw_tokens
from rlhf_plugins.engine.cpu.folding import folded
from rlhf_plugins.engine.decoding import AT_ONCE, Loop
from rlhf_plugins.engine.forward import evaluating, inner_of
from rlhf_plugins.engine.processors import penalties, warped
from rlhf_plugins.engine.progress import counted
from rlhf_plugins.engine.token_budget import generated
from rlhf_plugins.errors import RunError

CALL = 8  # times as many are asked for in one call, where those that end make room for the next


@dataclass(frozen=True)
class Decoding:
    """How responses are sampled; a temperature of 0 decodes greedily.

    Raises RunError where an option is out of its range, or changes nothing at temperature 0.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0  # divides the logits
    seed: int = 0
    top_p: float = 1.0  # samples from the fewest most likely tokens that together have this probability
    top_k: int = 0  # samples from so many of the most likely tokens; 0: from all
    min_p: float = 0.0  # samples from tokens at least this share as likely as the likeliest
    repetition_penalty: float = 1.0  # above 1 it makes tokens of the text so far less likely

    def __post_init__(self) -> None:
        if wrong := fault(self.temperature, self.options):
            raise RunError(f"sample: {wrong}")

    @property
    def options(self) -> SamplingOptions:
        """The options beside the temperature."""
        return options_of(self)


def sample(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Text],
    per_prompt: int = 1,
    decoding: Decoding = Decoding(),  # noqa: B008 (frozen)
    batch_size: int = AT_ONCE,
    ends: Sequence[int] = (),
) -> Samples:
    """`per_prompt` responses to each prompt, in the prompts' order, the responses to one prompt side by side.

    The same arguments on the same machine give the same samples, and torch's global random state does not change. The
    ids of a response end with EOS, or another end of the model's, if the model ended it; `ends` are ends besides.
    `batch_size` responses are generated at once, fewer where
    there is room for fewer tokens (`room`), or memory runs out.

    Raises:
        DataError: a prompt cannot be tokenized.
        RunError: memory does not hold a single response.
    """
    encoder = RowEncoder(tokenizer, None)
    rows = [(prompt, encoder.encode_start(prompt)) for prompt in prompts for _ in range(per_prompt)]
    order = sorted(range(len(rows)), key=lambda row: len(rows[row][1]))  # equal lengths need no padding
    responses: list[list[int]] = [[] for _ in rows]
    ends = sorted({*ends, *end_tokens(model, tokenizer)})
    own_distribution, loop = without_generation_defaults(model), Loop(batch_size)
    asked = GenerationConfig(repetition_penalty=decoding.repetition_penalty)  # which a loop may not take
    with torch.random.fork_rng(), evaluating(model), torch.inference_mode(), folded(model), own_distribution:
        torch.manual_seed(decoding.seed)
        lengths = [len(rows[row][1]) + decoding.max_new_tokens for row in order]

        def generate(part: slice) -> list[list[int]]:
            return _generate(
                model, tokenizer, [rows[row][1] for row in order[part]], (decoding, ends), loop.options(model, asked)
            )

        refills = loop.refills(model, asked)
        found = generated(model, lengths, batch_size * (CALL if refills else 1), generate, refills=refills)
        for part, made in counted(found, "sampling", len(rows), "responses", lambda one: len(one[1])):
            for row, response in zip(order[part], made, strict=True):
                responses[row] = response
    cost.add(generated_tokens=sum(map(len, responses)))
    texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
    return Samples([prompt for prompt, _ in rows], texts, [ids for _, ids in rows], responses)


@contextmanager
def without_generation_defaults(model: Any) -> Iterator[None]:
    """For the block, the model samples from its own distribution; of its generation configuration only tokens are kept.

    Many bases come with a repetition penalty or a `top_p`, which generation applies unless its caller overrides them.
    """
    base = inner_of(model)
    own = base.generation_config
    tokens = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    base.generation_config = GenerationConfig(**tokens)
    try:
        yield
    finally:
        base.generation_config = own


def _generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[list[int]],
    how: tuple[Decoding, list[int]],
    loop: dict[str, Any],
) -> list[list[int]]:
    decoding, ends = how
    batch = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt").to(model.device)
    cuts = {name: value for name, value in changed(decoding.options).items() if name in CUTS}
    sampled = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0, **cuts}
    out = model.generate(
        **batch,
        **(sampled if decoding.temperature > 0 else {"do_sample": False}),
        logits_processor=penalties(decoding.options, tokenizer.pad_token_id),
        max_new_tokens=decoding.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=ends,
        **loop,
    )
    return [up_to_end(row, ends) for row in out[:, batch["input_ids"].shape[1] :].tolist()]


def drawn(ids: Tensor, logits: Tensor, decoding: Decoding, generator: torch.Generator | None = None) -> Tensor:
    """One token from each row of logits, (B, vocabulary) -> (B,): the likeliest at temperature 0, else at random.

    Args:
        ids: the texts so far, (B, tokens), without padding.
        logits: behind them.
        decoding: how tokens are drawn.
        generator: the generator of random numbers; torch's own if None.
    """
    scores = warped(ids, logits, decoding.temperature, decoding.options)
    return scores.argmax(-1) if decoding.temperature == 0 else draw_tokens(scores, generator)


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a response of this model."""
    return response_ends(tokenizer, model.generation_config, model.config.get_text_config())


def up_to_end(ids: list[int], ends: list[int]) -> list[int]:
    """The ids up to and including the first token that ends a response."""
    first = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return ids[: first + 1]
