"""A batch cut into pieces of at most so many tokens, trained one after the other as the one batch that they are.

It knows groups and shares, no loss: a piece's mean loss counts by its share of the batch's rows, so that the sum of the
pieces' losses and gradients is the batch's. Memory then follows the piece, not the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from rlhf_plugins.data.branches import Layout, PromptBranches, size

Row = Mapping[str, Any]
PIECES, SHARE = "pieces", "share"
STEPPING = ("layerwise", "lomo")  # optimizers that step within the backward pass have this in their names


def in_pieces(
    rows: Sequence[Row],
    groups: Callable[[Row], Sequence[PromptBranches]],
    tokens: int | None,
    layout: Layout,
    collate: Callable[[Sequence[Row]], dict[str, Tensor]],
) -> dict[str, Any]:
    """The batch of some rows: what `collate` makes of them, or `pieces` of it with the `share` that each counts by.

    Args:
        rows: of a data set, in order.
        groups: what a row lays out.
        tokens: most tokens of a piece, padding included; a row that alone has more is a piece. None is no limit.
        layout: how groups become rows.
        collate: makes a batch of rows.
    """
    pieces: list[list[Row]] = [[]]
    laid: list[PromptBranches] = []
    for row in rows:
        own = groups(row)
        if tokens is not None and laid and size([*laid, *own], layout) > tokens:
            pieces.append([])
            laid = []
        pieces[-1].append(row)
        laid = [*laid, *own]
    if len(pieces) == 1:
        return collate(rows)
    return {PIECES: [{**collate(piece), SHARE: torch.tensor(len(piece) / len(rows))} for piece in pieces]}


def most_tokens(tokens: int | None, args: TrainingArguments, *components: Any) -> int | None:
    """The limit of a piece; None where components look at batch mates, or each backward pass is a step of its own."""
    steps = args.deepspeed or any(name in str(args.optim) for name in STEPPING)
    return None if steps or any(component.uses_batch_mates for component in components) else tokens


class TrainsInPieces:
    """A Trainer whose batches may come in pieces; stands before the Trainer among a class's bases."""

    def training_step(self, model: Any, inputs: dict[str, Any], *given: Any) -> Tensor:
        """The batch's loss, after its gradients have been added up."""
        step: Callable[..., Tensor] = super().training_step  # type: ignore[misc]
        return torch.stack([step(model, piece, *given) for piece in inputs.get(PIECES, [inputs])]).sum()


def shared_out(loss: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """A piece's mean loss as its share of the batch's."""
    return loss * inputs[SHARE] if SHARE in inputs else loss
