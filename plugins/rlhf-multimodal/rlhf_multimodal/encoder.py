"""The kind `image_encoder`: what turns an image into a few vectors. It is frozen."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from rlhf_plugins import Component, DataError, OnDisk, hookimpl

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 32  # images in memory at once


class ImageEncoder(Component, kind="image_encoder"):
    """Turns images into features; `build` loads what it needs."""

    def build(self) -> Callable[[Sequence[Image]], Tensor]:
        """A function from RGB images to (images, vectors, width), with a text `identity` for the cache.

        Equal identities mean equal features of equal images.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Patches(ImageEncoder):
    """The mean color of each cell of a grid, as red, green and blue in [-1, 1], and the cell's place; no weights."""

    grid: Annotated[int, Field(ge=1, description="cells along each side")] = 6

    def build(self) -> Callable[[Sequence[Image]], Tensor]:
        """A function to (images, grid^2, 5)."""
        return _Patches(self.grid)


@dataclass(frozen=True)
class Pretrained(ImageEncoder):
    """A vision model of transformers, or the vision part of one that reads text too, such as CLIP.

    Its last hidden states, or the cells of its last feature map, are averaged into `vectors` neighbouring groups.
    """

    model: Annotated[str, OnDisk(), Field(min_length=1, description="a folder or a hub name")]
    vectors: Annotated[int, Field(ge=1, description="that an image becomes")] = 16

    def build(self) -> Callable[[Sequence[Image]], Tensor]:
        """A function to (images, vectors, width). Raises DataError where the model cannot be loaded."""
        from transformers import AutoImageProcessor, AutoModel

        try:
            processor = AutoImageProcessor.from_pretrained(self.model)
            model = AutoModel.from_pretrained(self.model, use_safetensors=True)  # a pickle can run code
        except (OSError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise DataError(f"image_encoder pretrained: {self.model} is no vision model that loads: {first}") from error
        return _Pretrained(processor, getattr(model, "vision_model", model).eval(), self.vectors)


class _Patches:
    def __init__(self, grid: int) -> None:
        self.grid = grid
        self.identity = f"patches of a grid of {grid}"

    def __call__(self, images: Sequence[Image]) -> Tensor:  # (images, grid^2, 5)
        import numpy as np
        from PIL.Image import Resampling

        small = [np.asarray(image.resize((self.grid, self.grid), Resampling.BOX)) for image in images]
        colors = torch.tensor(np.stack(small)).float().flatten(1, 2) / 127.5 - 1
        side = torch.linspace(-1, 1, self.grid) if self.grid > 1 else torch.zeros(1)
        places = torch.cartesian_prod(side, side).expand(len(images), -1, -1)
        return torch.cat([colors, places], 2)


class _Pretrained:
    def __init__(self, processor: Any, model: Any, vectors: int) -> None:
        self.processor, self.model, self.vectors = processor, model, vectors
        self.identity = identity(processor, model, vectors)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image]) -> Tensor:  # (images, vectors, width)
        found = []
        for at in range(0, len(images), BATCH):
            inputs = self.processor(images=list(images[at : at + BATCH]), return_tensors="pt")
            states = self.model(pixel_values=inputs["pixel_values"]).last_hidden_state
            found.append(averaged(states, self.vectors))
        return torch.cat(found)


def identity(processor: Any, model: Any, vectors: int) -> str:
    """Identifies a pretrained encoder: its class, with a digest of its weights and of how its inputs are prepared."""
    digest = blake2b(json.dumps(processor.to_dict(), sort_keys=True, default=str).encode(), digest_size=16)
    for name, weights in sorted(model.state_dict().items()):
        numbers = weights.detach().cpu().contiguous().reshape(-1)  # one without dimensions has no bytes to view
        digest.update(name.encode() + numbers.view(torch.uint8).numpy().tobytes())
    return f"{type(model).__name__} {digest.hexdigest()} as {vectors} vectors"


def averaged(states: Tensor, vectors: int) -> Tensor:
    """(batch, vectors, width) of hidden states (batch, cells, width), or of a map (batch, width, height, width)."""
    rows = states.flatten(2) if states.dim() == 4 else states.transpose(1, 2)  # (batch, width, cells)
    return torch.nn.functional.adaptive_avg_pool1d(rows.float(), vectors).transpose(1, 2)


@hookimpl
def register_kind() -> dict[str, type]:
    """The kind of this file."""
    return {"image_encoder": ImageEncoder}


@hookimpl
def register_components() -> dict[str, dict[str, type]]:
    """The encoders of this file."""
    return {"image_encoder": {"patches": Patches, "pretrained": Pretrained}}
