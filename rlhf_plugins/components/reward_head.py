"""Reward heads: what is predicted from a feature vector.

A head is asked outside autocast, with features of its weights' own precision, which is float32. Outputs that are only
ever compared have no bias, for it would cancel; outputs that may be fitted to ratings have one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad, softplus

from rlhf_plugins.contract.component import one_for_each, uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import Aggregation, RewardHead
from rlhf_plugins.contract.records import MemberScores, Prediction

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class Scalar(RewardHead):
    """One reward, linear in the features and without a bias: only differences of rewards are learned.

    Weights start at N(0, 1 / (width + 1)) (Stiennon et al. 2020, appendix).
    """

    def build(self, width: int) -> nn.Module:
        """A module from (batch, width) to (batch,)."""
        head = _Scalar(width, 1, bias=False)
        nn.init.normal_(head.weight, std=(width + 1) ** -0.5)
        return head


@dataclass(frozen=True)
class MLP(RewardHead):
    """One reward of a perceptron: `layers` times h <- dropout(activation(W h + b)), then a scalar head."""

    hidden: Annotated[int | None, Field(ge=1, description="width of each hidden layer; null is the features'")] = None
    layers: Annotated[int, Field(ge=1, description="hidden layers")] = 1
    activation: Annotated[Literal["gelu", "silu", "tanh"], Field(description="of the hidden layers")] = "gelu"
    dropout: Annotated[float, Field(ge=0, lt=1, description="share of hidden units left out in training")] = 0.0

    def build(self, width: int) -> nn.Module:
        """A module from (batch, width) to (batch,)."""
        widths = [width, *[self.hidden or width] * self.layers]
        parts: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            parts += [nn.Linear(before, after), ACTIVATIONS[self.activation](), nn.Dropout(self.dropout)]
        return nn.Sequential(*parts, Scalar().build(widths[-1]))


@dataclass(frozen=True)
class Multi(RewardHead):
    """Named dimensions d, each linear in the features with a bias, and the reward sum_d w_d output_d.

    The dimensions are those of HelpSteer's regression (Wang et al. 2024, arXiv 2406.08673), the fixed weights those
    that ArmoRM's gating learns (Wang et al. 2024, arXiv 2406.12845, section 2.2).
    """

    dimensions: Annotated[
        list[Annotated[str, Field(min_length=1)]], Field(min_length=1, description="their names, as rated in the data")
    ]
    weights: Annotated[
        list[float] | None, Field(description="w, one a dimension, of any sign; null is 1 / dimensions for each")
    ] = None

    def __post_init__(self) -> None:
        twice = sorted({name for name in self.dimensions if self.dimensions.count(name) > 1})
        if twice:
            raise ValueError(f"dimensions: named twice: {', '.join(twice)}")
        one_for_each(self.weights, self.dimensions, "dimensions")
        if self.weights is not None and not any(self.weights):
            raise ValueError("weights: all 0, so that every reward would be 0")

    def build(self, width: int) -> nn.Module:
        """A module from (batch, width) to a `Prediction` with dimensions."""
        count = len(self.dimensions)
        return _Multi(width, self.dimensions, self.weights or [1 / count] * count)


@dataclass(frozen=True)
class Gaussian(RewardHead):
    """The reward's mean, linear in the features, and its variance floor + (1 - floor) log2(1 + 2^s), s linear too.

    Both have a bias. The variance is aleatoric (Kendall and Gal 2017, section 2.2), of a softplus above a floor
    (Lakshminarayanan et al. 2017, section 2.2.1) where Kendall and Gal take an exponential: it needs no clamp, since it
    grows no faster than s. s starts at 0, and so the variance at 1 whatever the features.
    """

    floor: Annotated[float, Field(gt=0, lt=1, description="the least variance")] = 1e-4

    def build(self, width: int) -> nn.Module:
        """A module from (batch, width) to a `Prediction` with a variance."""
        return _Gaussian(width, self.floor)


@dataclass(frozen=True)
class Quantile(RewardHead):
    """Q quantiles of the reward at the levels (q + 1/2) / Q (Dabney et al. 2018, lemma 2; Dorka 2024 for rewards).

    They never cross: the head predicts their mean, which is the reward, and the Q - 1 gaps between neighbours, each a
    softplus (the mean and gaps of Shen et al. 2025, arXiv 2504.08215). A gap is log2(1 + 2^s) times that of the
    standard normal, with s linear in the features and 0 at first: the quantiles start as those of N(reward, 1). The
    variance is the Q quantiles' own, which is below 1 there, since Q points leave the tails out.
    """

    quantiles: Annotated[int, Field(ge=2, description="Q")] = 10

    def build(self, width: int) -> nn.Module:
        """A module from (batch, width) to a `Prediction` with quantiles and a variance."""
        return _Quantile(width, self.quantiles)


@dataclass(frozen=True)
class Ensemble(RewardHead, like="head"):
    """M heads on the same features, with weights that start at random apart (Lakshminarayanan et al. 2017).

    The reward is the aggregation of the members' rewards, all of equal accuracy and every response a group of its own,
    since a head sees neither; an aggregation that compares siblings, such as `vote`, is refused. The spread of
    `members` is the epistemic uncertainty. The variance is the mean of the members' variances, where they predict one:
    the aleatoric uncertainty. Dimensions and quantiles are means over the members too.
    """

    head: RewardHead = uses("reward_head", "scalar")
    members: Annotated[int, Field(ge=2, description="M")] = 5
    aggregation: Aggregation = uses("aggregation", "mean")
    bootstrap: Annotated[
        bool, Field(description="train each member on its own resample of the examples (Breiman 1996)")
    ] = True  # the trainer reads it

    def __post_init__(self) -> None:
        self.aggregation.fits(self.members)
        name = self.aggregation.recipe_name
        if self.aggregation.compares_siblings:
            raise ValueError(f"aggregation: {name} compares the responses to a prompt, and a head sees each one alone")
        if self.aggregation.reads_accuracy:
            raise ValueError(f"aggregation: {name} needs each member's accuracy, which a head does not measure")

    def build(self, width: int) -> nn.Module:
        """A module from (batch, width) to a `Prediction` with members."""
        return _Ensemble([self.head.build(width) for _ in range(self.members)], self.aggregation)


class _Scalar(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # (batch, width) -> (batch,)
        return super().forward(input).squeeze(-1)


class _Multi(nn.Module):
    weights: Tensor

    def __init__(self, width: int, dimensions: list[str], weights: list[float]) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.linear = _linear(width, len(dimensions), random=len(dimensions))
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    def forward(self, features: Tensor) -> Prediction:
        outputs = self.linear(features)  # (batch, dimensions)
        named = dict(zip(self.dimensions, outputs.unbind(-1), strict=True))
        return Prediction(outputs @ self.weights, dimensions=named)


class _Gaussian(nn.Module):
    def __init__(self, width: int, floor: float) -> None:
        super().__init__()
        self.floor = floor
        self.linear = _linear(width, 2, random=1)

    def forward(self, features: Tensor) -> Prediction:
        mean, spread = self.linear(features).unbind(-1)
        return Prediction(mean, self.floor + (1 - self.floor) * _positive(spread))


class _Quantile(nn.Module):
    steps: Tensor

    def __init__(self, width: int, quantiles: int) -> None:
        super().__init__()
        self.linear = _linear(width, quantiles, random=1)
        levels = (torch.arange(quantiles) + 0.5) / quantiles
        self.register_buffer("steps", torch.special.ndtri(levels).diff(), persistent=False)

    def forward(self, features: Tensor) -> Prediction:
        outputs = self.linear(features)  # (batch, Q): the mean, and Q - 1 gaps
        gaps = self.steps * _positive(outputs[:, 1:])
        ladder = pad(gaps.cumsum(-1), (1, 0))  # (batch, Q), the lowest at 0
        quantiles = outputs[:, :1] + ladder - ladder.mean(-1, keepdim=True)
        return Prediction(outputs[:, 0], quantiles.var(-1, correction=0), quantiles=quantiles)


class _Ensemble(nn.Module):
    def __init__(self, heads: Iterable[nn.Module], aggregation: Aggregation) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.aggregation = aggregation

    def forward(self, features: Tensor, *columns: Mapping[str, Tensor]) -> Prediction:
        found = [head(features, *columns) for head in self.heads]
        members = torch.stack([one.reward for one in found])  # (M, batch)
        alone = torch.arange(len(features), device=features.device)
        scores = MemberScores(members, members.new_ones(len(members)), alone)
        return Prediction(
            self.aggregation(scores),
            _mean([one.variance for one in found]),
            {name: _mean([one.dimensions[name] for one in found]) for name in found[0].dimensions},
            _mean([one.quantiles for one in found]),
            members.T,
            each=tuple(found) if self.training else (),
        )


def _linear(width: int, outputs: int, random: int) -> nn.Linear:
    """A linear layer of which the first `random` outputs start as a scalar head's do, the others and biases at 0."""
    linear = nn.Linear(width, outputs)
    nn.init.zeros_(linear.bias)
    nn.init.zeros_(linear.weight)
    nn.init.normal_(linear.weight[:random], std=(width + 1) ** -0.5)
    return linear


def _positive(numbers: Tensor) -> Tensor:
    """log2(1 + 2^x): 1 at 0, x for large x."""
    return softplus(numbers, beta=math.log(2))


def _mean(parts: list[Any]) -> Any:
    """The mean of the members' tensors; None where they have none."""
    return None if parts[0] is None else torch.stack(parts).mean(0)


@hookimpl
def register_reward_head() -> dict[str, type]:
    """The bundled heads."""
    return {
        "scalar": Scalar,
        "mlp": MLP,
        "multi": Multi,
        "gaussian": Gaussian,
        "quantile": Quantile,
        "ensemble": Ensemble,
    }
