"""Out of memory in a micro-batch: it is computed again in halves, with the same gradients and numbers.

Only forward and backward passes are repeated; the cost counts what was really computed, repeated passes again. It
knows gradients, random states and what a trainer noted, no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rlhf_plugins.engine.out_of_memory import attempted, random_state, release_memory, too_much, warn
from rlhf_plugins.errors import RunError

KEPT, SHARE = "kept", "share"  # keys of a batch
ROWS = "rows"  # another: how many rows of it count, 0 where one is there to take part
FEW = 0.1  # share of a model's weights up to which gradients are set aside


class Kept(NamedTuple):
    """The rows of a batch, and what makes a batch of them, so that it can be cut again."""

    rows: Sequence[Any]
    collate: Callable[[Sequence[Any]], dict[str, Any]]


class Opaque:
    """Holds the rows of a batch from what moves tensors to a device, which would walk through all of them."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept


def halves(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Two batches of the rows of one, each with its share; none where it has a single row, or keeps no rows."""
    kept = part[KEPT].kept if KEPT in part else None
    if kept is None or len(kept.rows) < 2:
        return []
    middle, share = len(kept.rows) // 2, float(part.get(SHARE, 1.0))
    both = (kept.rows[:middle], kept.rows[middle:])
    return [
        {
            **kept.collate(rows),
            SHARE: torch.tensor(share * len(rows) / len(kept.rows)),
            KEPT: Opaque(Kept(rows, kept.collate)),
        }
        for rows in both
    ]


def tokens_of(part: Mapping[str, Any]) -> int:
    """Tokens that a batch lays out, padding included."""
    return int(part["input_ids"].numel()) if "input_ids" in part else 0


class Cutting(NamedTuple):
    """How the micro-batches of a trainer are cut, and what a user may write so that they need not be."""

    halves: Callable[[Any], Sequence[Any]] = halves  # the two halves of a micro-batch; empty where it cannot be cut
    tokens: Callable[[Any], int] = tokens_of  # tokens that a micro-batch lays out
    avoided: str = "tokens_per_batch: {tokens} avoids it"


class Recovery:
    """Computes the micro-batches of one trainer.

    Args:
        model: whose gradients are accumulated.
        noted: what a step notes besides, as (holder, name of an attribute).
        cutting: the cutting of its micro-batches; None where they are batches of rows.
    """

    def __init__(
        self, model: nn.Module, noted: Callable[[], Sequence[tuple[Any, str]]], cutting: Cutting | None = None
    ) -> None:
        self._model, self._noted, self._cutting = model, noted, cutting or Cutting()
        self._most: int | None = None  # tokens that fit, where more did not
        self._done: list[Any] = []  # micro-batches since the last optimizer step, of a whole model

    def computed(self, step: Callable[[Any], Tensor], part: Any, last: bool = False) -> Tensor:
        """The loss of a micro-batch; its gradients are accumulated.

        One that cannot be cut is tried once more, since memory that was given back may be in fewer pieces.

        Raises:
            RunError: a single row does not fit.
        """
        tokens = self._cutting.tokens(part)
        if self._most is not None and tokens > self._most and (cut := self._cutting.halves(part)):
            return self._sum(step, cut)
        before, gradients = Before(self._noted()), _Gradients(self._model)
        loss, reason = attempted(step, part)
        if loss is not None:
            gradients.join()
            self._remember(part, gradients)
            return loss
        before.restore()
        gradients.restore()
        release_memory()
        if not gradients.aside:
            self._replay(step)
        cut = self._cutting.halves(part)
        if not cut and not last:
            return self.computed(step, part, last=True)
        if not cut:
            raise RunError(too_much(reason, f"one row of {tokens} tokens is"))
        self._most = tokens // 2
        warn(CUT, tokens, self._most, self._cutting.avoided.format(tokens=self._most))
        return self._sum(step, cut)

    def _sum(self, step: Callable[[Any], Tensor], parts: Sequence[Any]) -> Tensor:
        return torch.stack([self.computed(step, part) for part in parts]).sum()

    def _remember(self, part: Any, gradients: _Gradients) -> None:
        """Keeps what has to be computed again if a later micro-batch fails, where gradients are not set aside."""
        if gradients.few:
            return
        self._done = [part] if gradients.fresh else [*self._done, part]

    def _replay(self, step: Callable[[Any], Tensor]) -> None:
        """Accumulates again what was accumulated since the last optimizer step; what it notes does not count."""
        done, before = list(self._done), Before(self._noted())
        for part in done:
            step(part)
            before.restore()


CUT = (
    "with %d tokens at once: computed again in two parts, and so are later ones of more than %d; the "
    "batch and its gradients stay the same, dropout draws other masks; %s"
)


class Before:
    """What a step may change besides gradients: random states, and what a trainer notes."""

    def __init__(self, noted: Sequence[tuple[Any, str]]) -> None:
        self._noted = [(holder, name, deepcopy(getattr(holder, name))) for holder, name in noted]
        self._random = random_state()

    def restore(self) -> None:
        """Puts all back; it may be called again."""
        for holder, name, value in self._noted:
            setattr(holder, name, deepcopy(value))
        self._random()


class _Gradients:
    """The gradients so far: set aside where few weights are trained, so that a failed pass can be taken back."""

    def __init__(self, model: nn.Module) -> None:
        weights = list(model.parameters())
        self._trained = [each for each in weights if each.requires_grad]
        self._so_far = [each.grad for each in self._trained]
        self.fresh = all(grad is None for grad in self._so_far)
        count, trained = (sum(each.numel() for each in some) for some in (weights, self._trained))
        self.few = trained <= FEW * count
        self.aside = self.fresh or self.few
        if self.aside:
            for each in self._trained:
                each.grad = None

    def join(self) -> None:
        """Adds what was set aside to what the pass accumulated."""
        if not self.aside or self.fresh:
            return
        for weights, grad in zip(self._trained, self._so_far, strict=True):
            if grad is not None:
                weights.grad = grad if weights.grad is None else grad.add_(weights.grad)

    def restore(self) -> None:
        """What was there before the pass; nothing where it was not set aside."""
        for weights, grad in zip(self._trained, self._so_far, strict=True):
            weights.grad = grad if self.aside else None
