"""Makes the shipped tokenizer and policy from nothing: word-level tokens, a small Llama, texts of the sloppy writer.

Knows the recipe of the pretraining and nothing of rewards: the policy never sees a gold score.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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
class Pretraining:
    """How the policy is pretrained; the defaults make the shipped one."""

    steps: int = 1800
    careful_share: float = 0.25  # of the steps, the first ones: texts of careful authors only, to learn the facts from
    batch_size: int = 128
    learning_rate: float = 3e-3
    warmup: int = 50
    weight_decay: float = 0.01
    seed: int = 0


def build(folder: Path, pretraining: Pretraining | None = None) -> None:
    """Write tokenizer and policy to a folder that `from_pretrained` loads (made if it is missing)."""
    pretraining = pretraining or Pretraining()
    tokenizer = make_tokenizer()
    model = pretrain(tokenizer, pretraining)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word or punctuation mark of the world; no BOS. Newlines are no tokens."""
    ids = {token: index for index, token in enumerate((PAD, EOS, UNK, *vocabulary()))}
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


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained policy of about 0.8 million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=144,
        intermediate_size=400,
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
    model = make_model(tokenizer)
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
        rows = [_row(tokenizer, rng, care) for _ in range(POOL * options.batch_size)]
        rows.sort(key=lambda row: len(row[0]))
        batches = [rows[at : at + options.batch_size] for at in range(0, len(rows), options.batch_size)]
        rng.shuffle(batches)
        yield from (_pad(batch, tokenizer.pad_token_id) for batch in batches[: options.steps - start])


def _row(tokenizer: PreTrainedTokenizerFast, rng: random.Random, care: float | None) -> tuple[list[int], int]:
    """Token ids of a prompt and a response, and how many of them are the prompt's; every cell is equally frequent."""
    prompt = rng.choice(rng.choice(prompts_by_cell()))
    ids = tokenizer.encode(prompt + write(prompt, rng, care) + EOS)
    return ids, len(tokenizer.encode(prompt))


def _pad(rows: list[tuple[list[int], int]], pad: int) -> dict[str, Tensor]:
    width = max(len(ids) for ids, _ in rows)
    input_ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows])
    at = torch.arange(width)
    start = torch.tensor([prompt for _, prompt in rows]).unsqueeze(1)
    end = torch.tensor([len(ids) for ids, _ in rows]).unsqueeze(1)
    labels = input_ids.masked_fill((at < start) | (at >= end), IGNORED)
    return {"input_ids": input_ids, "attention_mask": (at < end).long(), "labels": labels}
