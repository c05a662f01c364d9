"""The data format `with_audio`: rows with a column that names a recording."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from rlhf_multimodal.audio_encoder import AudioEncoder, Sound
from rlhf_multimodal.media import WithMedia
from rlhf_plugins import DataError, hookimpl, uses


@dataclass(frozen=True)
class WithAudio(WithMedia, like="rows"):
    """Other rows, with the column `media_features`: the features of the WAV file that another column names.

    A frozen encoder hears each recording once; with `cache`, once for all runs. The cache knows a recording by its
    bytes and an encoder by its weights. Channels are averaged.
    """

    encoder: AudioEncoder = uses("audio_encoder", "bands")
    column: Annotated[str, Field(min_length=1, description="the column with the file of each recording")] = "audio"
    called: ClassVar[str] = "with_audio"
    medium: ClassVar[str] = "recording"

    def opened(self, file: Path) -> Sound:
        """A recording. Raises DataError where it is no WAV file with a sample."""
        import numpy as np
        from scipy.io import wavfile

        try:
            rate, samples = wavfile.read(file)
        except Exception as error:  # scipy raises what its lines happen to, such as UnboundLocalError
            raise DataError(f"with_audio: {file}: no WAV file that can be read ({error})") from error
        if not samples.size:
            raise DataError(f"with_audio: {file}: has no sample")
        if not np.isfinite(samples).all():
            raise DataError(f"with_audio: {file}: has a sample that is no number")
        unsigned = samples.dtype == np.uint8
        scale = 1.0 if samples.dtype.kind == "f" else 128.0 if unsigned else float(-np.iinfo(samples.dtype).min)
        waves = (samples.astype(np.float32) - (128.0 if unsigned else 0.0)) / scale
        return Sound(waves.mean(1) if waves.ndim > 1 else waves, int(rate))


@hookimpl
def register_data_format() -> dict[str, type]:
    """The format of this file."""
    return {"with_audio": WithAudio}
