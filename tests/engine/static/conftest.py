"""Generation over slots on a CPU, and a graph that records a step's operations there and plays them again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import GenerationConfig

from rlhf_plugins.engine import pretending
from rlhf_plugins.engine.decoding import own_decoding_loop

from ..conftest import EOS, PAD

IDS = torch.tensor([[PAD, PAD, 7, 8], [5, 6, 7, 8], [PAD, 9, 4, 3], [PAD, PAD, PAD, 6], [5, 6, 7, 8], [PAD, PAD, 7, 8]])


def config(tokens: int = 12, **options: Any) -> GenerationConfig:
    return GenerationConfig(**{"max_new_tokens": tokens, "pad_token_id": PAD, "eos_token_id": EOS, **options})


def greedy(tokens: int = 12, **options: Any) -> GenerationConfig:
    return config(tokens, do_sample=False, **options)


def sampled(tokens: int = 12, **options: Any) -> GenerationConfig:
    return config(tokens, **{"do_sample": True, "top_k": 0, **options})


def plainly(model: Any, asked: GenerationConfig, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.generate(input_ids=ids, attention_mask=(ids != PAD).long(), generation_config=asked)
    return found


def over_slots(model: Any, asked: GenerationConfig, ids: Tensor = IDS, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    with pretending("cuda"), own_decoding_loop(model):
        return plainly(model, asked, ids)


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.seen.append((func, args, kwargs or {}, output))
        return output


def record_on_a_cpu(step: Callable[[], Any], _: torch.device) -> Callable[[], None]:
    """As a CUDA graph: the same operations on the same memory, with the values that the host saw while recording."""
    step()
    step()
    with _Operations() as operations:
        step()

    def replay() -> None:
        for func, args, kwargs, output in operations.seen:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(output), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)

    return replay
