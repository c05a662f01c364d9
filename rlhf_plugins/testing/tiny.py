"""A causal language model of some ten thousand random weights, preferences in its words, and a run over both."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from rlhf_plugins.contract.rows import Data, GoldReward, Group
from rlhf_plugins.contract.run import Base, StageResult
from rlhf_plugins.run.stage.stage_run import StageRun

PAD, EOS, UNKNOWN, CLS, SEP = "<pad>", "<eos>", "<unk>", "<cls>", "<sep>"
GOOD, BAD = ("ant", "bee", "cat", "dog", "elk", "fox"), ("gas", "ice", "jam", "key", "log", "mud")
ASKED = ("how", "is", "the", "what", "who", "why")

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # wide enough for order and context to move every logit
}
OWN_NAMES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "mamba": {"state_size": 8},
    "mistral": {"sliding_window": None},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.2},
}
_made: dict[str, dict[str, bytes]] = {}  # the files of each base that was asked for, by name


def tiny_base(
    folder: Path, architecture: str = "llama", *, pad_is_eos: bool = False, seed: int = 0, **config: Any
) -> Base:
    """Writes a random two-layer model and a tokenizer that knows some twenty words; the same arguments, the same bytes.

    Args:
        folder: where to; made if missing.
        architecture: a model type of transformers, such as `llama`, `qwen3`, `gpt2`, `mistral`, `gemma2`, `mamba`.
        pad_is_eos: let padding and the end of a response be one token.
        seed: the seed of the weights.
        config: options of the architecture's configuration, over ours.
    """
    key = repr((architecture, pad_is_eos, seed, sorted(config.items())))
    if key not in _made:
        _made[key] = _files(architecture, pad_is_eos, seed, config)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _made[key].items():
        (folder / name).unlink(missing_ok=True)  # a model of an earlier call may read it still
        (folder / name).write_bytes(content)
    return Base(str(folder))


def _files(architecture: str, pad_is_eos: bool, seed: int, config: Mapping[str, Any]) -> dict[str, bytes]:
    tokenizer = _tokenizer(pad_is_eos)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    sizes = {**SIZES, **OWN_NAMES.get(architecture, {}), "vocab_size": len(tokenizer), **ids, **config}
    with torch.random.fork_rng(), TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def tiny_encoder(folder: Path, architecture: str = "bert", seed: int = 0) -> Base:
    """Writes a random two-layer encoder, which reads in both directions, and a tokenizer that marks pairs as BERT does.

    Args:
        folder: where to; made if missing.
        architecture: a model type of transformers, such as `bert`, `roberta`, `distilbert`.
        seed: the seed of the weights.
    """
    tokenizer = _pair_tokenizer()
    sizes = {**SIZES, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": len(tokenizer)}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = AutoConfig.for_model(architecture, **sizes, pad_token_id=tokenizer.pad_token_id)
        AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Base(str(folder))


def tiny_pairs(n: int, seed: int = 0) -> tuple[Group, ...]:
    """Pairs of responses in the tiny tokenizer's words, of 1 to 8 words each, to prompts of 1 to 7.

    The first response is the better one and draws most of its words from `GOOD`, the second from `BAD`, so that there
    is something to learn. `gold` is the share of good words.
    """
    draw = random.Random(seed)
    return tuple(_pair(draw) for _ in range(n))


def gold(prompt: str, response: str) -> dict[str, float]:
    """The share of a response's words that are good; 0 of an empty response."""
    words = response.split()
    return {"total": sum(word in GOOD for word in words) / max(1, len(words))}


def tiny_run(base: Base, folder: Path, groups: Sequence[Group] = (), finished: Sequence[StageResult] = ()) -> StageRun:
    """What a stage is given: half as many held-out pairs as training pairs, prompts of both, and a known gold reward.

    `folder` is made; a reward or pooling that the stage saves is found again through the registry.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train = tuple(groups) or tiny_pairs(16)
    test = tiny_pairs(max(2, len(train) // 2), seed=1)
    asked = {"train": train, "test": test}
    prompts = {name: tuple(Group(g.prompt, columns=g.columns) for g in part) for name, part in asked.items()}
    truth: GoldReward = gold
    return StageRun(base, Data(train, test, prompts, {}, truth), 0, folder, tuple(finished))


def _tokenizer(pad_is_eos: bool) -> PreTrainedTokenizerFast:
    words = [PAD, EOS, UNKNOWN, *GOOD, *BAD, *ASKED]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([PAD, EOS, UNKNOWN])
    pad = EOS if pad_is_eos else PAD
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, eos_token=EOS, unk_token=UNKNOWN)


def _pair_tokenizer() -> PreTrainedTokenizerFast:
    words = [PAD, UNKNOWN, CLS, SEP, *GOOD, *BAD, *ASKED]
    ids = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing((SEP, ids[SEP]), (CLS, ids[CLS]))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token=CLS,
        sep_token=SEP,
        model_max_length=SIZES["max_position_embeddings"] - 2,  # as RoBERTa's, which numbers positions from 2
    )


def _pair(draw: random.Random) -> Group:
    prompt = " ".join(draw.choices(ASKED, k=draw.randint(1, 7))) + "\n"
    better, worse = (
        " ".join(draw.choices([*most * 3, *few], k=draw.randint(1, 8))) for most, few in ((GOOD, BAD), (BAD, GOOD))
    )
    pair = Group(prompt, (better, worse), (0, 1))
    return replace(pair, gold=(gold(prompt, better)["total"], gold(prompt, worse)["total"]))
