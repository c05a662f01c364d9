"""The data format `with_images`: rows with a column that names an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from rlhf_multimodal.encoder import ImageEncoder
from rlhf_multimodal.media import WithMedia
from rlhf_plugins import DataError, hookimpl, uses


@dataclass(frozen=True)
class WithImages(WithMedia, like="rows"):
    """Other rows, with the column `media_features`: the features of the image that another column names.

    A frozen encoder reads each image once; with `cache`, once for all runs. The cache knows an image by its bytes and
    an encoder by its weights.
    """

    encoder: ImageEncoder = uses("image_encoder", "patches")
    column: Annotated[str, Field(min_length=1, description="the column with the file of each row's image")] = "image"
    called: ClassVar[str] = "with_images"
    medium: ClassVar[str] = "image"

    def opened(self, file: Path) -> Any:
        """An RGB image. Raises DataError where it cannot be read."""
        from PIL import Image

        try:
            with Image.open(file) as image:
                return image.convert("RGB")
        except Exception as error:  # each format's reader raises faults of its own, such as ValueError
            raise DataError(f"with_images: {file}: no image that can be read ({error})") from error


@hookimpl
def register_data_format() -> dict[str, type]:
    """The format of this file."""
    return {"with_images": WithImages}
