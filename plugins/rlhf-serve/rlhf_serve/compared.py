"""What a quantized reward model saves, and how far its rewards move."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_plugins import Base, Group, component, strict_pairs

if TYPE_CHECKING:
    from torch import nn

    from rlhf_plugins import RewardModel

MIB = 2**20


@dataclass(frozen=True)
class Measured:
    """A reward model on pairs."""

    weights: int  # bytes
    better: Sequence[float]  # the reward of the better response of each pair
    worse: Sequence[float]

    @property
    def accuracy(self) -> float:
        """The share of pairs that it orders as they are, of a tie one half."""
        ordered = ((a > b) + 0.5 * (a == b) for a, b in zip(self.better, self.worse, strict=True))
        return sum(ordered) / len(self.better)


def pairs_of(file: str) -> tuple[list[Group], int]:
    """The pairs of a file with TRL's columns, and how many of its rows are none. Raises DataError as loading does."""
    data = component("data_format", "preference", source=file).load(Base(""), 0)
    groups = [*data.train, *data.test]  # all of them, since none is trained on
    pairs = [strict_pairs([group]) for group in groups]
    return sum(pairs, []), sum(data.dropped.values()) + pairs.count([])


def measured(model: RewardModel, pairs: Sequence[Group]) -> Measured:
    """Raises DataError where the model cannot read a response."""
    assert model.module is not None  # it was loaded
    better, worse = (
        model.encode(pairs, [pair.responses[place] for pair in pairs])  # type: ignore[attr-defined]
        for place in (0, 1)
    )
    return Measured(weight_bytes(model.module), *model.predict(better.beside(worse)).reward.view(2, -1).tolist())


def weight_bytes(module: nn.Module) -> int:
    """Bytes of the weights and of what their quantization keeps beside them; a weight that layers share counts once."""
    return sum({each.data_ptr(): each.nbytes for each in module.state_dict().values()}.values())


def compared(plain: Measured, quantized: Measured, name: str) -> Iterator[str]:
    """Sentences on a model and the same in `name`, an abbreviation of its quantization."""
    share = quantized.weights / plain.weights
    yield f"weights: {quantized.weights / MIB:.1f} MiB in {name}, {plain.weights / MIB:.1f} MiB without ({share:.0%})"
    moved = [
        abs(a - b)
        for one, other in ((plain.better, quantized.better), (plain.worse, quantized.worse))
        for a, b in zip(one, other, strict=True)
    ]
    gap = sum(abs(a - b) for a, b in zip(plain.better, plain.worse, strict=True)) / len(plain.better)
    yield (
        f"rewards of {len(moved)} responses: move by {sum(moved) / len(moved):.3g} on average and {max(moved):.3g} "
        f"at most; those of a pair are {gap:.3g} apart on average"
    )
    right = f"{quantized.accuracy:.1%} in {name}, {plain.accuracy:.1%} without"
    yield f"accuracy on {len(plain.better)} pairs: {right}"
