"""Makes the shipped tokenizers and policies from nothing: word-level tokens, a small Llama, texts of sloppy writers.

Knows the recipe of the pretraining and nothing of rewards: a policy never sees a gold score.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf_plugins.sandbox import arithmetic
from rlhf_plugins.sandbox.language import vocabulary
from rlhf_plugins.sandbox.world import prompts_by_cell
from rlhf_plugins.sandbox.writer import write

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
IGNORED = -100  # the label of a token that is not scored
POOL = 16
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
)


@dataclass(frozen=True)
class Corpus:
    """What a policy is pretrained on: its words, and a writer of prompts with a response."""

    vocabulary: tuple[str, ...]
    draw: Callable[[random.Random, float | None], tuple[str, str]]  # a random generator, the author's care


def _of_world(rng: random.Random, care: float | None) -> tuple[str, str]:
    """A prompt of the world and a response by the sloppy writer; every cell is equally frequent."""
    prompt = rng.choice(rng.choice(prompts_by_cell()))
    return prompt, write(prompt, rng, care)


def world() -> Corpus:
    """Questions about the animals of the world."""
    return Corpus(vocabulary(), _of_world)


def sums() -> Corpus:
    """Word problems of arithmetic."""
    return Corpus(arithmetic.vocabulary(), arithmetic.draw)


@dataclass(frozen=True)
class Pretraining:
    """How a policy is pretrained; the defaults make the shipped one of the world."""

    corpus: Corpus = field(default_factory=world)
    hidden_size: int = 144
    steps: int = 1800
    careful_share: float = 0.25  # of the steps, the first ones: texts of careful authors only, to learn the facts from
    batch_size: int = 128
    learning_rate: float = 3e-3
    warmup: int = 50
    weight_decay: float = 0.01
    seed: int = 0


SHIPPED = {
    "sandbox": Pretraining(),
    "sandbox_arithmetic": Pretraining(sums(), hidden_size=72, steps=800, batch_size=64),
}


def build(folder: Path, pretraining: Pretraining | None = None) -> None:
    """Write tokenizer and policy to a folder that `from_pretrained` loads (made if it is missing)."""
    pretraining = pretraining or Pretraining()
    tokenizer = make_tokenizer(pretraining.corpus)
    model = pretrain(tokenizer, pretraining)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_tokenizer(corpus: Corpus | None = None) -> PreTrainedTokenizerFast:
    """One token a word or mark of the corpus (None is the world's); no BOS. Newlines are no tokens."""
    known = vocabulary() if corpus is None else corpus.vocabulary
    ids = {token: index for index, token in enumerate((PAD, EOS, UNK, *known))}
    core = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.decoder = decoders.WordPiece(cleanup=True)  # words joined by spaces, none before punctuation
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=256,
        clean_up_tokenization_spaces=False,
        chat_template=_CHAT_TEMPLATE,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, hidden_size: int) -> LlamaForCausalLM:
    """An untrained policy, of about 0.8 million parameters with a hidden size of 144."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=25 * hidden_size // 9,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=0, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def pretrain(tokenizer: PreTrainedTokenizerFast, options: Pretraining) -> LlamaForCausalLM:
    """Next-token prediction of freshly written responses; AdamW, linear warm-up, cosine decay to zero."""
    torch.manual_seed(options.seed)
    model = make_model(tokenizer, options.hidden_size)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, options))
    for batch in track(_batches(tokenizer, options), description="pretraining", total=options.steps):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


def _rate(step: int, options: Pretraining) -> float:
    if step < options.warmup:
        return (step + 1) / options.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - options.warmup) / max(1, options.steps - options.warmup)))


def _batches(tokenizer: PreTrainedTokenizerFast, options: Pretraining) -> Iterator[dict[str, Tensor]]:
    """Batches of texts of nearly one length: `POOL` batches are written, sorted, cut and shuffled at a time."""
    rng = random.Random(options.seed)
    for start in range(0, options.steps, POOL):
        care = 1.0 if start < options.careful_share * options.steps else None
        rows = [_row(tokenizer, options.corpus.draw(rng, care)) for _ in range(POOL * options.batch_size)]
        rows.sort(key=lambda row: len(row[0]))
        batches = [rows[at : at + options.batch_size] for at in range(0, len(rows), options.batch_size)]
        rng.shuffle(batches)
        yield from (_pad(batch, tokenizer.pad_token_id) for batch in batches[: options.steps - start])


def _row(tokenizer: PreTrainedTokenizerFast, text: tuple[str, str]) -> tuple[list[int], int]:
    """Token ids of a prompt and a response, and how many of them are the prompt's."""
    prompt, response = text
    return tokenizer.encode(prompt + response + EOS), len(tokenizer.encode(prompt))


def _pad(rows: list[tuple[list[int], int]], pad: int) -> dict[str, Tensor]:
    width = max(len(ids) for ids, _ in rows)
    input_ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows])
    at = torch.arange(width)
    start = torch.tensor([prompt for _, prompt in rows]).unsqueeze(1)
    end = torch.tensor([len(ids) for ids, _ in rows]).unsqueeze(1)
    labels = input_ids.masked_fill((at < start) | (at >= end), IGNORED)
    return {"input_ids": input_ids, "attention_mask": (at < end).long(), "labels": labels}
