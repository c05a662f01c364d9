"""Poolings: how hidden states become one feature vector.

Positions outside the mask count for nothing and get no gradient, and a sequence of which the mask marks nothing
pools to 0. Sums are taken in float32 at least, also under autocast: half precision would round them, and overflow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from rlhf_plugins.arithmetic import masked
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import Pooling

if TYPE_CHECKING:
    from torch import Tensor

Over = Annotated[
    Literal["response", "sequence"],
    Field(description="which tokens count: the response's, or the prompt's and the response's"),
]


@dataclass(frozen=True)
class LastToken(Pooling, reads_last=True):
    """The hidden state at the last True position, whatever the padding side and whatever its token."""

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:  # (batch, length, width) -> (batch, width)
        """h_T with T the last position of the mask."""
        places = torch.arange(mask.shape[1], device=mask.device)
        last = (places * mask).argmax(1)  # (batch,)
        found = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return found.masked_fill(~mask.any(1, keepdim=True), 0.0)


@dataclass(frozen=True)
class Mean(Pooling):
    """The mean hidden state over the True positions."""

    over: Over = "sequence"

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:  # (batch, length, width) -> (batch, width)
        """1/T sum_t h_t."""
        return masked.mean(_kept(hidden, mask), mask.unsqueeze(-1), dim=1)


@dataclass(frozen=True)
class Sum(Pooling):
    """The sum of the hidden states over the True positions, sum_t h_t, divided by `scale`.

    Under a linear head it is a reward for every token, r_t = w . h_t / scale, which is learned from judgements of whole
    responses (Yang et al. 2023, arXiv 2306.00398); the reward `by_token` pays them. It grows with the length.
    """

    scale: Annotated[float, Field(gt=0, description="brings the feature to the size that a head expects")] = 16.0
    over: Over = "sequence"

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:  # (batch, length, width) -> (batch, width)
        """sum_t h_t / scale."""
        return _kept(hidden, mask).sum(1) / self.scale


@dataclass(frozen=True)
class MeanSqrtLength(Pooling):
    """The sum of the hidden states over the root of their number, 1/sqrt(T) sum_t h_t, divided by `scale`.

    Unlike the mean it grows with the length, so that a reward model may learn that people like length: on data where
    they do it is more accurate, and easier to please with words (one of the modes of Sentence-BERT, Reimers and
    Gurevych 2019).
    """

    scale: Annotated[float, Field(gt=0, description="brings the feature to the size that a head expects")] = 1.0
    over: Over = "sequence"

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:  # (batch, length, width) -> (batch, width)
        """1/sqrt(T) sum_t h_t / scale."""
        root = mask.sum(1, keepdim=True).float().sqrt()
        return masked.mean(_kept(hidden, mask), mask.unsqueeze(-1), dim=1) * root / self.scale


@dataclass(frozen=True)
class Max(Pooling):
    """The greatest value of each feature over the True positions (max over time, Collobert et al. 2011)."""

    over: Over = "sequence"

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:  # (batch, length, width) -> (batch, width)
        """max_t h_t, feature by feature."""
        greatest = hidden.masked_fill(~mask.unsqueeze(-1), -math.inf).amax(1)
        return greatest.masked_fill(~mask.any(1, keepdim=True), 0.0)


@dataclass(frozen=True)
class Attention(Pooling):
    """sum_t a_t h_t with a = softmax_t(w . h_t) and w learned; w starts at 0, and so the pooling as the mean.

    Yang et al. 2016, equations 6 and 7, without the hidden layer of their equation 5.
    """

    over: Over = "sequence"

    def build(self, width: int) -> nn.Module:
        """A module of `width` weights from hidden states and a mask to (batch, width)."""
        return _Attention(width, self.over)


@dataclass(frozen=True)
class Hierarchical(Pooling):
    """alpha h_T + (1 - alpha) 1/T sum_t h_t with alpha fixed: 1 is the last token, 0 the mean."""

    alpha: Annotated[float, Field(ge=0, le=1, description="share of the last token")] = 0.5
    over: Over = "sequence"

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:  # (batch, length, width) -> (batch, width)
        """The last token of the response is that of the sequence, so that `over` chooses what the mean is taken of."""
        return self.alpha * LastToken()(hidden, mask) + (1 - self.alpha) * Mean()(hidden, mask)


@dataclass(frozen=True)
class LearnedHierarchical(Pooling):
    """alpha h_T + (1 - alpha) 1/T sum_t h_t with alpha = sigmoid(a) and a learned."""

    alpha: Annotated[float, Field(gt=0, lt=1, description="share of the last token at the start")] = 0.5
    over: Over = "sequence"

    def build(self, width: int) -> nn.Module:
        """A module of one weight from hidden states and a mask to (batch, width)."""
        return _Hierarchical(self.alpha, self.over)


@dataclass(frozen=True)
class MultiScale(Pooling):
    """g_1 token + g_2 sentence + g_3 document: features of three scales, with gates g = softmax(learned numbers).

    The document's feature is the mean of all tokens, the token feature is attention over tokens, the sentence feature
    attention over sentences, each the mean of its tokens (attention as in `attention`; words, then sentences, as in
    Yang et al. 2016; gates as in Peters et al. 2018, equation 1). Sentences end where the text says so: at marks and
    lines. With `window` so many tokens take their place, from the mask's first token on; the
    last ones may be fewer. Gates start equal and attentions as means.
    """

    window: Annotated[
        Annotated[int, Field(ge=1)] | None, Field(description="tokens in the place of a sentence; null is sentences")
    ] = None
    over: Over = "sequence"

    @property
    def reads_sentences(self) -> bool:  # type: ignore[override]
        """Where no window takes their place."""
        return self.window is None

    def build(self, width: int) -> nn.Module:
        """A module of 2 width + 3 weights from hidden states, a mask and numbers of sentences to (batch, width)."""
        return _MultiScale(width, self.window, self.over)


class _Learned(nn.Module):
    """A pooling with weights. `over` is for the model to read, which makes the mask."""

    def __init__(self, over: str) -> None:
        super().__init__()
        self.over = over

    def forward(self, hidden: Tensor, mask: Tensor, *more: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return self.pooled(_kept(hidden, mask), mask, *more)

    def pooled(self, hidden: Tensor, mask: Tensor, *more: Tensor) -> Tensor:
        raise NotImplementedError


class _Attention(_Learned):
    def __init__(self, width: int, over: str) -> None:
        super().__init__(over)
        self.query = nn.Parameter(torch.zeros(width))

    def pooled(self, hidden: Tensor, mask: Tensor, *more: Tensor) -> Tensor:
        return _attended(self.query, hidden, mask)


class _Hierarchical(_Learned):
    def __init__(self, alpha: float, over: str) -> None:
        super().__init__(over)
        self.logit = nn.Parameter(torch.tensor([alpha]).logit())

    def pooled(self, hidden: Tensor, mask: Tensor, *more: Tensor) -> Tensor:
        alpha = self.logit.to(hidden.dtype).sigmoid()
        return alpha * LastToken()(hidden, mask) + (1 - alpha) * Mean()(hidden, mask)


class _MultiScale(_Learned):
    def __init__(self, width: int, window: int | None, over: str) -> None:
        super().__init__(over)
        self.window = window
        self.token_query = nn.Parameter(torch.zeros(width))
        self.sentence_query = nn.Parameter(torch.zeros(width))
        self.gates = nn.Parameter(torch.zeros(3))

    def pooled(self, hidden: Tensor, mask: Tensor, *more: Tensor) -> Tensor:
        token = _attended(self.token_query, hidden, mask)
        number = (mask.cumsum(1) - 1) // self.window if self.window else more[0]  # (batch, length)
        sentence = _attended(self.sentence_query, *_sentences(hidden, mask, number))
        document = Mean()(hidden, mask)
        gates = self.gates.to(hidden.dtype).softmax(0)
        return gates[0] * token + gates[1] * sentence + gates[2] * document


def _kept(hidden: Tensor, mask: Tensor) -> Tensor:
    """Hidden states in float32 at least, 0 outside the mask."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    return hidden.to(wide).masked_fill(~mask.unsqueeze(-1), 0.0)


def _attended(query: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
    """sum_t softmax_t(query . h_t) h_t over the mask; `hidden` is 0 outside it."""
    lowest = torch.finfo(hidden.dtype).min  # -inf would make a row without tokens NaN
    shares = (hidden @ query.to(hidden.dtype)).masked_fill(~mask, lowest).softmax(1)  # (batch, length)
    return (shares.unsqueeze(1) @ hidden).squeeze(1)


def _sentences(hidden: Tensor, mask: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the True positions of each number, (batch, numbers, width), and which numbers have any."""
    count = int(number.amax()) + 1
    holds = (number.unsqueeze(1) == torch.arange(count, device=mask.device).unsqueeze(1)) & mask.unsqueeze(1)
    tokens = holds.sum(2, keepdim=True)  # (batch, numbers, 1)
    return (holds.to(hidden.dtype) @ hidden) / tokens.clamp(min=1), tokens.squeeze(2) > 0


@hookimpl
def register_pooling() -> dict[str, type]:
    """The bundled poolings."""
    return {
        "last_token": LastToken,
        "mean": Mean,
        "mean_sqrt_length": MeanSqrtLength,
        "max": Max,
        "attention": Attention,
        "hierarchical": Hierarchical,
        "learned_hierarchical": LearnedHierarchical,
        "multi_scale": MultiScale,
        "sum": Sum,
    }
