"""The sandbox: a small world in which the true reward of every response is known. No download, no GPU.

It knows nothing of recipes and training. `python -m rlhf_plugins.sandbox show` prints what its policy writes;
`python -m rlhf_plugins.sandbox build` makes the tokenizer and the weights in `policy/` again from nothing.
Importing it imports no torch.
"""

from __future__ import annotations

from pathlib import Path

from rlhf_plugins.sandbox.annotators import Annotator
from rlhf_plugins.sandbox.generate import AnnotatedGroup, annotate, draft, pairs
from rlhf_plugins.sandbox.gold import MAX_TOTAL, WEIGHTS, Gold, gold
from rlhf_plugins.sandbox.world import prompts

POLICY = Path(__file__).parent / "policy"

__all__ = [
    "MAX_TOTAL",
    "POLICY",
    "WEIGHTS",
    "AnnotatedGroup",
    "Annotator",
    "Gold",
    "annotate",
    "base_path",
    "draft",
    "gold",
    "pairs",
    "prompts",
]


def base_path(base: str) -> str:
    """A base's folder or hub name; `sandbox` is the folder of the sandbox's own policy."""
    return str(POLICY) if base == "sandbox" else base
