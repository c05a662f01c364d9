"""The sandbox: a small world in which the true reward of every response is known. No download, no GPU.

`python -m rlhf_plugins.sandbox show` prints what its policy writes; `python -m rlhf_plugins.sandbox build` makes the
tokenizer and the weights in `policy/` again from nothing. Beside it, `arithmetic` has word problems with answers, and
`policy_arithmetic/` a policy that works half of them out. Importing it imports no torch.
"""

from __future__ import annotations

from pathlib import Path

from rlhf_plugins.sandbox.annotators import Annotator
from rlhf_plugins.sandbox.generate import AnnotatedGroup, annotate, draft, pairs
from rlhf_plugins.sandbox.gold import MAX_TOTAL, WEIGHTS, Gold, gold
from rlhf_plugins.sandbox.world import prompts

POLICY = Path(__file__).parent / "policy"
POLICIES = {"sandbox": POLICY, "sandbox_arithmetic": Path(__file__).parent / "policy_arithmetic"}  # as bases name them

__all__ = [
    "MAX_TOTAL",
    "POLICIES",
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
    """A base's folder or hub name; `sandbox` and `sandbox_arithmetic` are the folders of the sandbox's policies."""
    return str(POLICIES.get(base, base))
