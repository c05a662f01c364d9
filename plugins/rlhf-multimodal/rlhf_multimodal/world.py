"""What the tiny worlds of the sandbox share: pairs of responses about files, where only a file tells which one is true.

A prompt asks about one file. A response makes one claim, which is true half the time, and may begin with an insult or
with filler. Its worth is 1 for a true claim, less 0.5 for an insult and 0.2 for filler. Two responses to a prompt are
judged by Bradley and Terry's model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import exp
from os import getpid
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import Field

from rlhf_plugins import Base, Data, DataFormat, Group, Origin

INSULT, FILLER = "you fool.", "well, let me think."
TEST_SHARE = 0.2  # share of the scenes that are held out


class Scene(Protocol):
    """What a file holds; each question is an attribute with the true answer."""

    @property
    def file(self) -> str:
        """Its name."""
        ...

    @property
    def caption(self) -> str:
        """What it holds, in words."""
        ...


@dataclass(frozen=True)
class World(DataFormat):
    """Pairs of responses to questions about files, which a column names; held-out scenes are others.

    The column `caption` says what a file holds.
    """

    column: ClassVar[str]
    questions: ClassVar[Mapping[str, str]]  # what is asked for -> the prompt
    values: ClassVar[Mapping[str, tuple[str, ...]]]  # what is asked for -> possible answers

    folder: Annotated[str, Field(min_length=1, description="where its files are written")]
    prompts: Annotated[int, Field(ge=1, description="training pairs")] = 1500
    test_prompts: Annotated[int, Field(ge=1, description="held-out pairs")] = 400
    temperature: Annotated[float, Field(gt=0, description="worth at which the odds of a right choice are e to 1")] = 0.2

    def scenes(self) -> Iterator[Scene]:
        """Every scene of the world, in one order."""
        raise NotImplementedError

    def claim(self, asked: str, value: str) -> str:
        """The sentence which claims that what is asked for has this value."""
        raise NotImplementedError

    def write(self, scene: Any, file: Path) -> None:
        """Writes the file of a scene."""
        raise NotImplementedError

    def load(self, base: Base, seed: int) -> Data:
        """Writes the files that are not there yet."""
        draw = random.Random(seed)
        train, test = ([s for s in self.scenes() if _held_out(s) is out] for out in (False, True))
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
        """The truth is in the file, which no function of prompt and response reads."""
        return False

    def known_columns(self) -> frozenset[str]:
        """Which response is better, and what was asked as the topic."""
        return frozenset({"ranks", "topic"})

    def _pair(self, draw: random.Random, scene: Scene, row: int) -> Group:
        asked = draw.choice(list(self.questions))
        (first, a), (second, b) = (self.written(draw, scene, asked) for _ in range(2))
        while first == second:
            second, b = self.written(draw, scene, asked)
        better = draw.random() < 1 / (1 + exp((b - a) / self.temperature))
        file = Path(self.folder) / scene.file
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            own = file.with_name(f"{getpid()}-{file.name}")  # another process may read the file meanwhile
            self.write(scene, own)
            own.replace(file)
        return Group(
            self.questions[asked] + "\n",
            (first, second),
            (0, 1) if better else (1, 0),
            gold=(a, b),
            topic=asked,
            columns={self.column: str(file), "caption": scene.caption},
            origin=Origin(type(self).__name__.lower(), row),
        )

    def written(self, draw: random.Random, scene: Scene, asked: str) -> tuple[str, float]:
        """A response to a question about a scene, and its worth."""
        right = draw.random() < 0.5
        truth = getattr(scene, asked)
        value = truth if right else draw.choice([other for other in self.values[asked] if other != truth])
        before = draw.choice(("", "", INSULT, FILLER))
        worth = float(right) - 0.5 * (before == INSULT) - 0.2 * (before == FILLER)
        return f"{before} {self.claim(asked, value)}".strip(), worth


def _held_out(scene: Scene) -> bool:
    """Whether it is in no training file; the same for every seed."""
    return random.Random(scene.file).random() < TEST_SHARE
