"""A learning rate of their own for some of the weights that an optimizer trains."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer


def give_rate(optimizer: Optimizer, weights: Iterable[nn.Parameter], rate: float) -> None:
    """Moves weights of every group to a group with this learning rate, before there is a schedule."""
    own = {id(each) for each in weights}
    for group in list(optimizer.param_groups):
        moved = [each for each in group["params"] if id(each) in own]
        group["params"] = [each for each in group["params"] if id(each) not in own]
        if moved:
            optimizer.add_param_group({**group, "params": moved, "lr": rate})
