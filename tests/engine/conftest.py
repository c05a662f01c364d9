"""Ragged groups of token ids of the tiny tokenizer, and the plain computation that the forward pass must equal."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_plugins.data.batches.branches import BranchBatch, Layout, PromptBranches, collate
from rlhf_plugins.engine.weights.loading import load_causal
from rlhf_plugins.testing import tiny_base

PAD, EOS, FIRST_WORD, WORDS = 0, 1, 3, 21


def ragged(seed: int = 0, groups: int = 5) -> list[PromptBranches]:
    """Prompts of 1 to 6 tokens with 1 to 4 branches of 1 to 7; each branch ends with EOS, one token long or not."""
    draw = random.Random(seed)

    def ids(low: int, high: int) -> list[int]:
        return draw.choices(range(FIRST_WORD, WORDS), k=draw.randint(low, high))

    drawn = [PromptBranches(ids(1, 6), [[*ids(0, 6), EOS] for _ in range(draw.randint(1, 4))]) for _ in range(groups)]
    alike = PromptBranches([7], [[5, 6, EOS], [5, 6, EOS]])  # a prompt of one token, a response equal to its sibling
    return [PromptBranches([7, 8, 9], [[EOS], [5, EOS], [6, 6, 6, 6, EOS], [4]]), alike, *drawn]


def batch_of(groups: Sequence[PromptBranches], layout: Layout = Layout.PACKED, pad_id: int = PAD) -> BranchBatch:
    return BranchBatch.from_inputs(collate(groups, pad_id, layout))


def sequences(groups: Iterable[PromptBranches]) -> list[tuple[list[int], list[int]]]:
    return [(list(group.prompt), list(branch)) for group in groups for branch in group.branches]


def plain_logps(model: Any, prompt: list[int], branch: list[int], temperature: float = 1.0) -> Tensor:
    """One sequence alone, by the book, (branch tokens, vocabulary)."""
    logits = model(torch.tensor([prompt + branch])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)


@pytest.fixture(scope="session")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    def load(architecture: str = "llama", **config: Any) -> Any:
        return load_causal(tiny_base(tmp_path_factory.mktemp(architecture), architecture, **config)).eval()

    return load
