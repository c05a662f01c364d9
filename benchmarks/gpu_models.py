"""Random models in the shapes that people train, rows for them, and a watch on every training."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Qwen3Config,
    TrainerCallback,
)

from rlhf_plugins.data.batches.branches import Layout
from rlhf_plugins.engine import attention

SHAPES: dict[str, dict[str, Any]] = {  # of Qwen3, as its configurations have them
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "1.7B": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "4B": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
    "8B": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
}
WIDE = {"vocab_size": 151936, "head_dim": 128, "num_key_value_heads": 8}
NARROW = {"vocab_size": 512, "head_dim": 16, "num_key_value_heads": 2}
ENDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}


def random_model(folder: Path, shape: str, device: str) -> Path:
    """Writes a model of random weights, made on the device, and a tokenizer of as many words; once a folder."""
    if (folder / "tokenizer_config.json").exists():
        return folder
    sizes = {**SHAPES[shape], **(NARROW if shape == "tiny" else WIDE), "max_position_embeddings": 4096}
    return _written(folder, Qwen3Config(**sizes, **ENDS, tie_word_embeddings=shape != "8B"), device)


def windowed_model(folder: Path, window: int, device: str) -> Path:
    """Writes a small Gemma 3 of random weights whose layers but the last have a sliding window, as `random_model`."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 4}
    heads = {"head_dim": 64, "num_key_value_heads": 1, "sliding_window": window, "vocab_size": 512}
    return _written(folder, Gemma3TextConfig(**sizes, **heads, **ENDS), device)


def _written(folder: Path, config: Any, device: str) -> Path:
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(config.vocab_size)}, unk_token="w2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1", unk_token="w2").save_pretrained(
        folder
    )
    return folder


@contextmanager
def made_for(trunk: Any, layout: Layout) -> Iterator[None]:
    """For the block, a model computes batches of this layout, also where the engine would not choose it."""
    before = trunk.config._attn_implementation
    if layout is Layout.PACKED:
        trunk.config._attn_implementation = attention.NAME
    try:
        yield
    finally:
        trunk.config._attn_implementation = before


def text(draw: random.Random, tokens: int) -> str:
    """So many words, each a token of every model here."""
    return " ".join(f"w{draw.randrange(3, 500)}" for _ in range(tokens))


def pairs(count: int, prompt: int, response: int, seed: int = 0) -> list[dict[str, str]]:
    """Pairs in TRL's columns; lengths are in tokens, a response's EOS included."""
    draw = random.Random(seed)
    return [
        {
            "prompt": text(draw, prompt) + " ",
            "chosen": text(draw, response - 1),
            "rejected": text(draw, response - 1),
        }
        for _ in range(count)
    ]


def pairs_on_disk(folder: Path, count: int, prompt: int, response: int) -> dict[str, str]:
    """The `data:` block of a recipe with exactly these pairs to train on, so that a batch of all has a known loss."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", pairs(count, prompt, response)), ("test", pairs(2, prompt, response, seed=1))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"format": "preference", "source": str(folder / "train.jsonl"), "test_source": str(folder / "test.jsonl")}


@dataclass
class Training:
    """One call of `Trainer.train`: what it started from, took and changed."""

    trainer: Any
    build_seconds: float  # from the start of the watch, or the end of the training before
    start: dict[str, Tensor]  # the weights that are trained, as they were
    steps: list[float] = field(default_factory=list)  # seconds
    changed_frozen: list[str] = field(default_factory=list)
    moved: bool = False  # whether any trained weight changed

    @property
    def losses(self) -> list[float]:
        """One per logged step."""
        return [float(row["loss"]) for row in self.trainer.state.log_history if "loss" in row]


class Watch:
    """A context in which every training of a `transformers.Trainer`, ours or TRL's, is recorded.

    Args:
        synchronize: waits for the device, at the start and end of each step.
        frozen: compare every frozen weight with a copy from before the training, byte by byte.
        start: weights that the next training starts from, as `Training.start` has them.
    """

    def __init__(
        self, synchronize: Callable[[], None], frozen: bool = False, start: dict[str, Tensor] | None = None
    ) -> None:
        self.trainings: list[Training] = []
        self._synchronize, self._frozen, self._start = synchronize, frozen, start
        self._own = transformers.Trainer.train
        self._patched = patch.object(transformers.Trainer, "train", lambda *a, **k: self._train(*a, **k))

    def __enter__(self) -> Watch:
        self._patched.start()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._patched.stop()

    def _train(self, trainer: Any, *given: Any, **options: Any) -> Any:
        self._synchronize()
        built = time.perf_counter() - self._began
        if self._start is not None:
            with torch.no_grad():
                for key, weights in trained(trainer.model).items():
                    weights.copy_(self._start[key].view_as(weights))
        training = Training(trainer, built, _copies(trainer.model))
        before = frozen_bytes(trainer.model) if self._frozen else {}
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Clock(training.steps, self._synchronize))
        found = self._own(trainer, *given, **options)
        self._synchronize()
        after = frozen_bytes(trainer.model) if self._frozen else {}
        training.changed_frozen = [name for name in before if not torch.equal(before[name], after[name])]
        training.moved = any(not torch.equal(w, training.start[k]) for k, w in _copies(trainer.model).items())
        self.trainings.append(training)
        self._began = time.perf_counter()
        return found


def trained(model: Any) -> dict[str, Tensor]:
    """The trainable weights by a name that ours and TRL's models share: from the layer on, or `head`."""
    named = {name: weights for name, weights in model.named_parameters() if weights.requires_grad}
    return {_shared_name(name): weights for name, weights in named.items()}


def _shared_name(name: str) -> str:
    if "layers." in name:
        return name[name.index("layers.") :]
    return "head" if name.startswith("head.") or ".score." in name else name


def _copies(model: Any) -> dict[str, Tensor]:
    """The trainable weights, on the CPU, where they count as nobody's memory."""
    return {name: weights.detach().cpu().clone() for name, weights in trained(model).items()}


def frozen_bytes(model: Any) -> dict[str, Tensor]:
    """Copies on the CPU of all frozen weights, and of the scales of quantized ones."""
    frozen = {name: weights for name, weights in model.named_parameters() if not weights.requires_grad}
    found = {name: weights.data.cpu().clone() for name, weights in frozen.items()}
    for name, module in model.named_modules():
        weights = getattr(module, "weight", None)
        scales = getattr(getattr(weights, "quant_state", None), "absmax", None)  # of NF4
        if scales is None:  # of int8, which moves from the weights to the layer at its first product
            scales = getattr(weights, "SCB", None)
            scales = getattr(getattr(module, "state", None), "SCB", None) if scales is None else scales
        if isinstance(scales, Tensor):
            found[f"{name} (scales)"] = scales.cpu().clone()
    return found


class _Clock(TrainerCallback):
    """Seconds of every optimizer step."""

    def __init__(self, seconds: list[float], synchronize: Callable[[], None]) -> None:
        self._seconds, self._synchronize = seconds, synchronize

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._synchronize()
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._synchronize()
        self._seconds.append(time.perf_counter() - self._began)


def later(steps: Sequence[float]) -> list[float]:
    """All but the first step, in which memory is allocated and layouts are tried."""
    return list(steps[1:] or steps)
