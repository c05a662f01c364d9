"""Computes a reward loss of rows on random features: what it refuses of judgements is known without weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from rlhf_plugins.arithmetic.ranking import per_group
from rlhf_plugins.contract.guards import maker
from rlhf_plugins.contract.interfaces import Pooling, RewardHead, RewardLoss
from rlhf_plugins.data.batches.branches import Layout
from rlhf_plugins.data.batches.numeric import in_batch
from rlhf_plugins.data.batches.ranked import Collator, RankedRows, judged
from rlhf_plugins.errors import ComponentError, RunError
from rlhf_plugins.reward_models.reward_model import RewardModel

GROUPS = 64  # groups of a batch


def try_loss(rows: RankedRows, config: Any, pooling: Pooling, head: RewardHead, loss: RewardLoss) -> None:
    """Computes the loss of every group once, as the first steps of a training would, and keeps nothing.

    Args:
        rows: the groups.
        config: the config of the trunk.
        pooling: the pooling of the reward model.
        head: the head of the reward model.
        loss: which may hold weights of its own.

    Raises:
        DataError: the loss refuses a judgement, such as a tie.
        RunError: the head does not predict what the loss reads, or the loss itself fails.
    """
    with torch.random.fork_rng(), torch.enable_grad():
        model = RewardModel(SimpleNamespace(config=config, device="cpu"), pooling, head).eval()
        computed, width = loss.acting(), config.get_text_config().hidden_size
        for start in range(0, len(rows.dataset), GROUPS):
            batch = rows.dataset.select(range(start, min(start + GROUPS, len(rows.dataset)))).to_list()
            count, first = sum(len(row["ranks"]) for row in batch), batch[0]["first"]
            placed = [{**row, "first": row["first"] - first} for row in batch]
            inputs = Collator(0, Layout.SEPARATE, torch.randn(count, width))(placed)
            columns = {name: values[inputs["group"]] for name, values in in_batch(inputs).items()}
            prediction = model(inputs["features"], columns)
            try:
                per_group(computed, judged(prediction, inputs, rows.dimensions))
            except ComponentError as error:
                if isinstance(maker(error.call.component), RewardLoss):
                    raise RunError(str(error)) from error
                raise  # of a part of the model: maybe of what is in the place of the trunk
