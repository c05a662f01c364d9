"""The kind `audio_encoder`: what turns a recording into a few vectors. It is frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from rlhf_multimodal.encoder import averaged, identity
from rlhf_plugins import Component, DataError, OnDisk, hookimpl

TOP = 4000.0  # hertz, above which `bands` hears nothing
SILENCE = 1e-6  # power that counts as none


class Sound(NamedTuple):
    """A recording."""

    waves: npt.NDArray[np.float32]  # (samples,), from -1 to 1
    rate: int  # samples a second


class AudioEncoder(Component, kind="audio_encoder"):
    """Turns recordings into features; `build` loads what it needs."""

    def build(self) -> Callable[[Sequence[Sound]], Tensor]:
        """A function from recordings to (recordings, vectors, width), with a text `identity` for the cache.

        Equal identities mean equal features of equal recordings.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Bands(AudioEncoder):
    """The power in some bands of frequency in equal parts of a recording, log10 and divided by 6; no weights.

    The bands are equally wide on the mel scale 2595 log10(1 + f / 700) from 0 to 4000 Hz; power below 1e-6 counts as
    1e-6, so that silence is -1. A last number is the place of the part, from -1 to 1.
    """

    bands: Annotated[int, Field(ge=1, description="of frequency")] = 12
    parts: Annotated[int, Field(ge=1, description="of a recording, each of which becomes a vector")] = 8

    def build(self) -> Callable[[Sequence[Sound]], Tensor]:
        """A function to (recordings, parts, bands + 1)."""
        return _Bands(self.bands, self.parts)


@dataclass(frozen=True)
class PretrainedAudio(AudioEncoder):
    """An audio model of transformers, such as Wav2Vec2, AST or the encoder of Whisper, or the audio part of CLAP.

    A recording is brought to the model's rate, and refused where it is longer than the model takes. The last hidden
    states are averaged into `vectors` neighbouring groups; of a model that fills up a shorter one with silence, such as
    Whisper, the last of these hear silence.
    """

    model: Annotated[str, OnDisk(), Field(min_length=1, description="a folder or a hub name")]
    vectors: Annotated[int, Field(ge=1, description="that a recording becomes")] = 16

    def build(self) -> Callable[[Sequence[Sound]], Tensor]:
        """A function to (recordings, vectors, width). Raises DataError where the model cannot be loaded."""
        from transformers import AutoFeatureExtractor, AutoModel

        try:
            extractor = AutoFeatureExtractor.from_pretrained(self.model)
            model = AutoModel.from_pretrained(self.model, use_safetensors=True)  # a pickle can run code
            rate = int(extractor.sampling_rate)
        except (OSError, ValueError, AttributeError) as error:
            first = str(error).splitlines()[0]
            raise DataError(f"audio_encoder pretrained: {self.model} is no audio model that loads: {first}") from error
        part = model.get_encoder() if model.config.is_encoder_decoder else getattr(model, "audio_model", model)
        return _Pretrained(extractor, part.eval(), self.vectors, rate)


class _Bands:
    def __init__(self, bands: int, parts: int) -> None:
        self.bands, self.parts = bands, parts
        self.identity = f"{bands} bands in {parts} parts"

    def __call__(self, sounds: Sequence[Sound]) -> Tensor:  # (recordings, parts, bands + 1)
        heard = torch.tensor(np.stack([self._heard(sound) for sound in sounds])).float()
        side = torch.linspace(-1, 1, self.parts) if self.parts > 1 else torch.zeros(1)
        return torch.cat([heard, side.view(1, -1, 1).expand(len(sounds), -1, 1)], 2)

    def _heard(self, sound: Sound) -> npt.NDArray[np.float64]:  # (parts, bands)
        found = []
        for part in np.array_split(sound.waves.astype(np.float64), self.parts):
            part = part if len(part) else np.zeros(1)
            power = np.abs(np.fft.rfft(part) / len(part)) ** 2
            mel = 2595 * np.log10(1 + np.fft.rfftfreq(len(part), 1 / sound.rate) / 700)
            places = (mel / (2595 * np.log10(1 + TOP / 700)) * self.bands).astype(int)
            sums = np.bincount(np.minimum(places, self.bands), power, self.bands + 1)[: self.bands]
            found.append(np.log10(np.maximum(sums, SILENCE)) / 6)
        return np.stack(found)


class _Pretrained:
    def __init__(self, extractor: Any, model: Any, vectors: int, rate: int) -> None:
        self.extractor, self.model, self.vectors, self.rate = extractor, model, vectors, rate
        self.most = most_samples(extractor)
        self.identity = identity(extractor, model, vectors)

    @torch.no_grad()
    def __call__(self, sounds: Sequence[Sound]) -> Tensor:  # (recordings, vectors, width)
        return torch.cat([self._heard(sound) for sound in sounds])  # one at a time: none is padded to another

    def _heard(self, sound: Sound) -> Tensor:
        waves = resampled(sound, self.rate)
        if self.most is not None and len(waves) > self.most:
            both = (
                f"a recording has {len(waves) / self.rate:.3g} seconds, and the model takes {self.most / self.rate:.3g}"
            )
            raise DataError(f"audio_encoder pretrained: {both}: cut it first")
        inputs = self.extractor(waves, sampling_rate=self.rate, return_tensors="pt")
        try:
            states = self.model(inputs[self.extractor.model_input_names[0]]).last_hidden_state
        except RuntimeError as error:
            seconds = len(waves) / self.rate
            raise DataError(f"audio_encoder pretrained: cannot read {seconds:.3g} seconds ({error})") from error
        return averaged(states, self.vectors)


def most_samples(extractor: Any) -> int | None:
    """What an extractor of transformers takes; it cuts what is longer, that of CLAP at a random place. None: any."""
    from transformers import ASTFeatureExtractor

    if isinstance(extractor, ASTFeatureExtractor):  # frames of 25 ms, 10 ms apart
        return round(extractor.sampling_rate * (0.025 + 0.010 * (extractor.max_length - 1)))
    most = getattr(extractor, "n_samples", None) or getattr(extractor, "nb_max_samples", None)  # of Whisper, of CLAP
    return None if most is None else int(most)


def resampled(sound: Sound, rate: int) -> npt.NDArray[np.float32]:
    """The waves at another rate, by a polyphase filter."""
    from scipy.signal import resample_poly

    shared = gcd(sound.rate, rate)
    if sound.rate == rate:
        return sound.waves
    return np.asarray(resample_poly(sound.waves, rate // shared, sound.rate // shared), dtype=np.float32)


@hookimpl
def register_kind() -> dict[str, type]:
    """The kind of this file."""
    return {"audio_encoder": AudioEncoder}


@hookimpl
def register_components() -> dict[str, dict[str, type]]:
    """The encoders of this file."""
    return {"audio_encoder": {"bands": Bands, "pretrained": PretrainedAudio}}
