"""The data format `shapes`: a tiny visual world in the sandbox's words. What is true of a picture, only it tells.

A picture shows one thing (a stone is a disc, a stick a bar, a net a lattice, a fire a triangle) of one color and one
size somewhere on gray. A prompt asks for its color, its size or what it is (`world`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from rlhf_multimodal.world import World
from rlhf_plugins import hookimpl

SIDE = 36  # pixels
COLORS = {
    "red": (200, 30, 30), "green": (30, 160, 50), "blue": (40, 60, 210), "yellow": (230, 210, 40),
    "black": (15, 15, 15), "white": (250, 250, 250), "brown": (120, 70, 30),
}  # fmt: skip
SIZES = {"tiny": 5, "huge": 11}  # half the width in pixels
THINGS = ("stone", "stick", "net", "fire")
QUESTIONS = {
    "color": "what is the color of the thing?",
    "size": "what is the size of the thing?",
    "thing": "what thing is it?",
}


@dataclass(frozen=True)
class Scene:
    """What a picture shows; the place is of the middle, in pixels."""

    thing: str
    color: str
    size: str
    x: int
    y: int

    @property
    def file(self) -> str:
        return f"{self.size}-{self.color}-{self.thing}-{self.x}-{self.y}.png"

    @property
    def caption(self) -> str:
        return f"the thing is a {self.size} {self.color} {self.thing}."


@dataclass(frozen=True)
class Shapes(World):
    """Pairs of responses to questions about pictures, whose files the column `image` names; held-out scenes are others.

    `with_images` makes features of them. The column `caption` says what is seen.
    """

    column: ClassVar[str] = "image"
    questions: ClassVar[Mapping[str, str]] = QUESTIONS
    values: ClassVar[Mapping[str, tuple[str, ...]]] = {"color": tuple(COLORS), "size": tuple(SIZES), "thing": THINGS}

    def scenes(self) -> Iterator[Scene]:
        """Every scene of the world, in one order."""
        return scenes()

    def claim(self, asked: str, value: str) -> str:
        """The sentence which claims that what is asked for has this value."""
        return f"it is a {value}." if asked == "thing" else f"the thing is {value}."

    def write(self, scene: Scene, file: Path) -> None:
        """Draws the picture."""
        picture(scene).save(file)


def scenes() -> Iterator[Scene]:
    """Every scene of the world, in one order."""
    places = (11, 18, 25)
    for thing, color, size, x, y in product(THINGS, COLORS, SIZES, places, places):
        yield Scene(thing, color, size, x, y)


def picture(scene: Scene) -> Any:
    """The scene as a PIL image."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (SIDE, SIDE), (150, 150, 150))
    pen, fill, half = ImageDraw.Draw(image), COLORS[scene.color], SIZES[scene.size]
    x, y = scene.x, scene.y
    box = (x - half, y - half, x + half, y + half)
    if scene.thing == "stone":
        pen.ellipse(box, fill)
    elif scene.thing == "stick":
        pen.rectangle((x - half, y - half // 4, x + half, y + half // 4), fill)
    elif scene.thing == "fire":
        pen.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], fill)
    else:
        for step in range(-half, half + 1, max(2, half // 2)):
            pen.line((x - half, y + step, x + half, y + step), fill)
            pen.line((x + step, y - half, x + step, y + half), fill)
    return image


@hookimpl
def register_data_format() -> dict[str, type]:
    """The format of this file."""
    return {"shapes": Shapes}
