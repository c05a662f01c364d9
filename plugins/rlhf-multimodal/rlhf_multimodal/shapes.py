"""The data format `shapes`: a tiny visual world in the sandbox's words. What is true of a picture, only it tells.

A picture shows one thing (a stone is a disc, a stick a bar, a net a lattice, a fire a triangle) of one color and one
size somewhere on gray. A prompt asks for its color, its size or what it is. A response makes one claim, which is true
half the time, and may begin with an insult or with filler. Its worth is 1 for a true claim, less 0.5 for an insult and
0.2 for filler. Two responses to a prompt are judged by Bradley and Terry's model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import exp
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from rlhf_plugins import Base, Data, DataFormat, Group, Origin, hookimpl

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
INSULT, FILLER = "you fool.", "well, let me think."
TEST_SHARE = 0.2  # of the scenes


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
class Shapes(DataFormat):
    """Pairs of responses to questions about pictures, whose files the column `image` names; held-out scenes are others.

    `with_images` makes features of them. The column `caption` says what is seen.
    """

    folder: Annotated[str, Field(min_length=1, description="where the pictures are written")]
    prompts: Annotated[int, Field(ge=1, description="training pairs")] = 1500
    test_prompts: Annotated[int, Field(ge=1, description="held-out pairs")] = 400
    temperature: Annotated[float, Field(gt=0, description="worth at which the odds of a right choice are e to 1")] = 0.2

    def load(self, base: Base, seed: int) -> Data:
        """Draws the pictures that are not there yet."""
        draw = random.Random(seed)
        train, test = ([s for s in scenes() if _held_out(s) is out] for out in (False, True))
        groups = [
            tuple(self._pair(draw, draw.choice(among), row) for row in range(1, count + 1))
            for among, count in ((train, self.prompts), (test, self.test_prompts))
        ]
        asked = {
            split: tuple(Group(g.prompt, columns=g.columns, origin=g.origin) for g in part)
            for split, part in zip(("train", "test"), groups, strict=True)
        }
        return Data(groups[0], groups[1], prompts=asked)

    def known_gold(self) -> bool:
        """The truth is in the picture, which no function of prompt and response sees."""
        return False

    def known_columns(self) -> frozenset[str]:
        """Which response is better, and what was asked as the topic."""
        return frozenset({"ranks", "topic"})

    def _pair(self, draw: random.Random, scene: Scene, row: int) -> Group:
        asked = draw.choice(list(QUESTIONS))
        (first, a), (second, b) = (written(draw, scene, asked) for _ in range(2))
        while first == second:
            second, b = written(draw, scene, asked)
        better = draw.random() < 1 / (1 + exp((b - a) / self.temperature))
        file = Path(self.folder) / scene.file
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(scene).save(file)
        return Group(
            QUESTIONS[asked] + "\n",
            (first, second),
            (0, 1) if better else (1, 0),
            gold=(a, b),
            topic=asked,
            columns={"image": str(file), "caption": scene.caption},
            origin=Origin("shapes", row),
        )


def scenes() -> Iterator[Scene]:
    """Every scene of the world, in one order."""
    places = (11, 18, 25)
    for thing, color, size, x, y in product(THINGS, COLORS, SIZES, places, places):
        yield Scene(thing, color, size, x, y)


def written(draw: random.Random, scene: Scene, asked: str) -> tuple[str, float]:
    """A response to a question about a scene, and its worth."""
    right = draw.random() < 0.5
    values = {"color": tuple(COLORS), "size": tuple(SIZES), "thing": THINGS}[asked]
    truth = getattr(scene, asked)
    value = truth if right else draw.choice([other for other in values if other != truth])
    before = draw.choice(("", "", INSULT, FILLER))
    claim = f"it is a {value}." if asked == "thing" else f"the thing is {value}."
    worth = float(right) - 0.5 * (before == INSULT) - 0.2 * (before == FILLER)
    return f"{before} {claim}".strip(), worth


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


def _held_out(scene: Scene) -> bool:
    """Whether it is in no training picture; the same for every seed."""
    return random.Random(scene.file).random() < TEST_SHARE


@hookimpl
def register_data_format() -> dict[str, type]:
    """The format of this file."""
    return {"shapes": Shapes}
