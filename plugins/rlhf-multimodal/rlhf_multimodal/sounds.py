"""The data format `sounds`: a tiny audible world in the sandbox's words. What is true of a recording, only it tells.

A recording of half a second has one sound: a hum is a low steady tone, a whistle a high one, a howl falls, a squeak
rises, a chirp is three short high tones and a roar is noise. It begins at one of three times, is tuned in one of five
ways, and is quiet or loud. A prompt asks which sound it is (`world`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import ClassVar
from zlib import crc32

import numpy as np
import numpy.typing as npt

from rlhf_multimodal.world import World
from rlhf_plugins import hookimpl

RATE, SECONDS, LONG = 8000, 0.5, 0.3  # samples a second, of a recording, of its sound
HERTZ = {  # at the beginning and at the end of a sound
    "hum": (200.0, 200.0), "whistle": (1800.0, 1800.0), "howl": (900.0, 300.0),
    "squeak": (1200.0, 2600.0), "chirp": (2400.0, 2400.0), "roar": (0.0, 0.0),
}  # fmt: skip


@dataclass(frozen=True)
class Heard:
    """What a recording holds."""

    sound: str
    start: float  # seconds
    tuning: float  # a factor of the frequencies
    loudness: float  # amplitude

    @property
    def file(self) -> str:
        return f"{self.sound}-{self.start:g}-{self.tuning:g}-{self.loudness:g}.wav"

    @property
    def caption(self) -> str:
        return f"the sound is {self.sound}."


@dataclass(frozen=True)
class Sounds(World):
    """Pairs of responses to a question about recordings, which the column `audio` names; held-out ones are others.

    `with_audio` makes features of them. The column `caption` says what is heard.
    """

    column: ClassVar[str] = "audio"
    questions: ClassVar[Mapping[str, str]] = {"sound": "which sound is it?"}
    values: ClassVar[Mapping[str, tuple[str, ...]]] = {"sound": tuple(HERTZ)}

    def scenes(self) -> Iterator[Heard]:
        """Every recording of the world, in one order."""
        for each in product(HERTZ, (0.0, 0.1, 0.2), (0.9, 0.95, 1.0, 1.05, 1.1), (0.2, 0.8)):
            yield Heard(*each)

    def claim(self, asked: str, value: str) -> str:
        """The sentence which claims that the sound is this one."""
        return f"the sound is {value}."

    def write(self, scene: Heard, file: Path) -> None:
        """Writes 16 bits a sample."""
        from scipy.io import wavfile

        wavfile.write(file, RATE, (waves(scene) * 32767).astype(np.int16))


def waves(scene: Heard) -> npt.NDArray[np.float64]:
    """A recording, (samples,), from -1 to 1."""
    begin, count = round(scene.start * RATE), round(LONG * RATE)
    low, high = (scene.tuning * hertz for hertz in HERTZ[scene.sound])
    made = np.sin(2 * np.pi * np.cumsum(np.linspace(low, high, count)) / RATE)
    if scene.sound == "roar":
        made = np.random.default_rng(crc32(scene.file.encode())).uniform(-1, 1, count)
    if scene.sound == "chirp":
        made = made * (np.arange(count) * 6 // count % 2 == 0)
    found = np.zeros(round(SECONDS * RATE))
    found[begin : begin + count] = scene.loudness * made
    return found


@hookimpl
def register_data_format() -> dict[str, type]:
    """The format of this file."""
    return {"sounds": Sounds}
