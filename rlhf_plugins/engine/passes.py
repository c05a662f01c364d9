"""Passes over many responses: as many tokens at once as there is room for, and fewer where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from rlhf_plugins.data.batches.branches import BranchBatch, Layout, PromptBranches, collate, size, within_budget
from rlhf_plugins.engine.out_of_memory import attempted, release_memory, too_much, warn
from rlhf_plugins.errors import RunError

Found = TypeVar("Found")
SMALLER = (
    "with %d tokens scored at once: computed again in passes of at most %d, and so are later ones; the "
    "numbers stay the same, and tokens_per_batch: %d avoids it"
)
_FIT: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # tokens of a pass that fit, of models where more did not


@dataclass(frozen=True)
class Passes:
    """How responses go through a model.

    Args:
        model: whose device they are computed on.
        layout: how groups become rows.
        pad_id: token that fills short rows.
        tokens: most that are laid out at once, padding included; one response alone may have more.
    """

    model: Any
    layout: Layout
    pad_id: int
    tokens: int

    def over(
        self, groups: Sequence[PromptBranches], compute: Callable[[BranchBatch, slice], Found]
    ) -> Iterator[tuple[slice, Found]]:
        """What is computed of all responses, in order, for neighbours that go through the model together.

        Without gradients, of which earlier passes would keep their memory, a pass that does not fit is computed again
        in smaller ones.

        Args:
            groups: prompts and their responses.
            compute: is called with a batch and the places of its responses.

        Raises:
            RunError: one response alone does not fit, in two tries.
        """
        done, again, batches = 0, False, self._laid_out(groups)
        while batches:
            rows = slice(done, done + sum(len(group.branches) for group in batches[0]))
            found, reason = self._attempted(compute, batches[0], rows)
            if found is not None:
                yield rows, found
                done, again, batches = rows.stop, False, batches[1:]
                continue
            release_memory()
            tokens, alone = size(batches[0], self.layout), rows.stop - rows.start == 1
            if alone and again:
                raise RunError(too_much(reason, f"one response of {tokens} tokens, its prompt's included, is"))
            if not alone:
                _FIT[self.model] = tokens // 2
                warn(SMALLER, tokens, tokens // 2, tokens // 2)
                batches = self._laid_out([group for batch in batches for group in batch])
            again = alone

    def _attempted(
        self, compute: Callable[[BranchBatch, slice], Found], groups: Sequence[PromptBranches], rows: slice
    ) -> tuple[Found | None, str]:
        def computed() -> Found:
            inputs = collate(groups, self.pad_id, self.layout)
            on_device = {name: value.to(self.model.device) for name, value in inputs.items()}
            return compute(BranchBatch.from_inputs(on_device), rows)

        return (computed(), "") if torch.is_grad_enabled() else attempted(computed)

    def _laid_out(self, groups: Sequence[PromptBranches]) -> list[list[PromptBranches]]:
        most = min(self.tokens, _FIT.get(self.model, self.tokens))
        return list(within_budget(groups, most, self.layout))


def rows_of(found: tuple[slice, Any]) -> int:
    """How many responses a part of what `over` returns is of, for a bar that counts them."""
    return int(found[0].stop - found[0].start)
