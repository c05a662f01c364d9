"""Heads for text and an image: r(x_text, x_image, y) = fusion(r_text, r_visual), with three fusions.

h are the features of prompt and response, V the image's vectors, which the column `media_features` holds. The same
image is beside both responses of a pair, so that r_visual must depend on the response too: it says how well h goes
with V. Both parts are among the dimensions, as `text` and `visual`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from rlhf_multimodal.media import FEATURES
from rlhf_plugins import DataError, Prediction, RewardHead, hookimpl

Width = Annotated[int, Field(ge=1, description="of each vector: of `patches` 5, of `bands` 13, else the encoder's")]
Vectors = Annotated[
    int, Field(ge=1, description="of an image or a recording: of `patches` grid^2, of `bands` its parts")
]
Rank = Annotated[int, Field(ge=1, description="numbers in which text and image are compared")]


@dataclass(frozen=True)
class LateFusion(RewardHead, columns={FEATURES}):
    """(1 - a) r_text + a r_visual with one learned a in (0, 1), 1/2 at first.

    r_text = w . h, and r_visual = (U h) . (P v) / sqrt(rank), v all vectors of the image in a row: the two are
    computed apart and meet at the end.
    """

    width: Width
    vectors: Vectors = 36
    rank: Rank = 32

    def build(self, width: int) -> nn.Module:
        """A module from (batch, width) features and (batch, vectors, width) images to a `Prediction`."""
        return _Late(width, (self.vectors, self.width), self.rank)

    def examples(self, rows: int) -> Mapping[str, Tensor]:
        """Images of `vectors` vectors."""
        return _images(rows, self.vectors, self.width)


@dataclass(frozen=True)
class GatedFusion(RewardHead, columns={FEATURES}):
    """(1 - g) r_text + g r_visual with g = sigmoid(b + c . [h; P v]) for each response: the two parts of `late_fusion`.

    The gate of a gated multimodal unit (Arevalo et al. 2017, section 3), on rewards in place of features.
    """

    width: Width
    vectors: Vectors = 36
    rank: Rank = 32

    def build(self, width: int) -> nn.Module:
        """A module from (batch, width) features and (batch, vectors, width) images to a `Prediction`."""
        return _Gated(width, (self.vectors, self.width), self.rank)

    def examples(self, rows: int) -> Mapping[str, Tensor]:
        """Images of `vectors` vectors."""
        return _images(rows, self.vectors, self.width)


@dataclass(frozen=True)
class CrossAttention(RewardHead, columns={FEATURES}):
    """r_text + r_visual: h attends to the image's vectors, and r_visual compares it with what it found.

    r_text = w . h, z = softmax(U h (K v_i)' / sqrt(rank)) N v (Vaswani et al. 2017, equation 1), and
    r_visual = s . gelu(A [U h; z; U h * z]). An image may have any number of vectors.
    """

    width: Width
    rank: Rank = 32

    def build(self, width: int) -> nn.Module:
        """A module from (batch, width) features and (batch, any, width) images to a `Prediction`."""
        return _Attending(width, self.width, self.rank)

    def examples(self, rows: int) -> Mapping[str, Tensor]:
        """Images of two vectors."""
        return _images(rows, 2, self.width)


class _Apart(nn.Module):
    """Both rewards, and how much the visual one counts, which a subclass says."""

    def __init__(self, width: int, image: tuple[int, int], rank: int) -> None:
        super().__init__()
        self.image = image
        self.text = _reward(width)
        self.query, self.key = nn.Linear(width, rank), nn.Linear(image[0] * image[1], rank)

    def share(self, features: Tensor, key: Tensor) -> Tensor:
        """The share of the visual reward in the sum, 0 to 1, (batch,) or a scalar."""
        raise NotImplementedError

    def forward(self, features: Tensor, columns: Mapping[str, Tensor]) -> Prediction:
        """Raises DataError for images of other shapes."""
        key = self.key(_checked(columns[FEATURES], self.image).flatten(1).to(features))
        visual = (self.query(features) * key).sum(1) / key.shape[1] ** 0.5
        text, share = self.text(features).squeeze(1), self.share(features, key)
        return Prediction((1 - share) * text + share * visual, dimensions={"text": text, "visual": visual})


class _Late(_Apart):
    def __init__(self, width: int, image: tuple[int, int], rank: int) -> None:
        super().__init__(width, image, rank)
        self.balance = nn.Parameter(torch.zeros(()))

    def share(self, features: Tensor, key: Tensor) -> Tensor:
        return self.balance.sigmoid()


class _Gated(_Apart):
    def __init__(self, width: int, image: tuple[int, int], rank: int) -> None:
        super().__init__(width, image, rank)
        self.gate = nn.Linear(width + rank, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def share(self, features: Tensor, key: Tensor) -> Tensor:
        return self.gate(torch.cat([features, key], 1)).squeeze(1).sigmoid()


class _Attending(nn.Module):
    def __init__(self, width: int, image: int, rank: int) -> None:
        super().__init__()
        self.width = image
        self.text = _reward(width)
        self.query, self.key, self.value = nn.Linear(width, rank), nn.Linear(image, rank), nn.Linear(image, rank)
        self.mixed, self.score = nn.Linear(3 * rank, rank), _reward(rank)

    def forward(self, features: Tensor, columns: Mapping[str, Tensor]) -> Prediction:
        """Raises DataError for images of another width."""
        image = _checked(columns[FEATURES], (None, self.width)).to(features)
        query = self.query(features)  # (batch, rank)
        match = (self.key(image) * query.unsqueeze(1)).sum(2) / query.shape[1] ** 0.5  # (batch, vectors)
        seen = (match.softmax(1).unsqueeze(2) * self.value(image)).sum(1)
        mixed = nn.functional.gelu(self.mixed(torch.cat([query, seen, query * seen], 1)))
        text, visual = self.text(features).squeeze(1), self.score(mixed).squeeze(1)
        return Prediction(text + visual, dimensions={"text": text, "visual": visual})


def _reward(width: int) -> nn.Linear:
    """One output without a bias, which would cancel, from N(0, 1 / (width + 1))."""
    linear = nn.Linear(width, 1, bias=False)
    nn.init.normal_(linear.weight, std=(width + 1) ** -0.5)
    return linear


def _checked(images: Tensor, shape: tuple[int | None, int]) -> Tensor:
    """Raises DataError unless the images are (batch, *shape), where None is any number."""
    found = tuple(images.shape[1:])
    if len(found) != 2 or found[1] != shape[1] or shape[0] not in (None, found[0]):
        wanted = f"{shape[0] or 'any number of'} vectors of {shape[1]} numbers"
        raise DataError(f"{FEATURES}: the head reads {wanted} an image, and rows have {' x '.join(map(str, found))}")
    return images


def _images(rows: int, vectors: int, width: int) -> dict[str, Any]:
    """Images for the conformance kit, no two alike."""
    return {FEATURES: torch.arange(rows * vectors * width).float().sin().view(rows, vectors, width)}


@hookimpl
def register_reward_head() -> dict[str, type]:
    """The heads of this file."""
    return {"late_fusion": LateFusion, "gated_fusion": GatedFusion, "cross_attention": CrossAttention}
