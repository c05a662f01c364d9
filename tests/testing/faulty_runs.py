"""Components with one fault each that are built of a run: rewards, environments, generators, formats and stages."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from rlhf_plugins import (
    Base,
    Choice,
    Data,
    DataFormat,
    DataStep,
    Environment,
    Generator,
    Reward,
    Run,
    Samples,
    Selector,
    Situation,
    Stage,
    StageResult,
)

os.environ["FAULTY_WAS_HERE"] = "1"  # on import: a fault too


@dataclass(frozen=True)
class Ranked(Reward):
    """Rewards a response by its rank in the batch."""

    def build(self, run: Run) -> Callable[[Samples], Sequence[float]]:
        return lambda samples: np.argsort(np.argsort([len(text) for text in samples.responses])).astype(float).tolist()


@dataclass(frozen=True)
class OnlyAnswers(Reward):
    """Leaves empty responses out."""

    def build(self, run: Run) -> Callable[[Samples], Sequence[float]]:
        return lambda samples: [float(len(text)) for text in samples.responses if text]


@dataclass(frozen=True)
class Unscored(Reward):
    """Names its reward as another library does."""

    def build(self, run: Run) -> Callable[[Samples], Sequence[Mapping[str, float]]]:
        return lambda samples: [{"rewards": float(len(text))} for text in samples.responses]


@dataclass(frozen=True)
class Tiring(Reward):
    """Gives less each time, by a count that no checkpoint holds."""

    def build(self, run: Run) -> Callable[[Samples], Sequence[float]]:
        asked = [0]

        def score(samples: Samples) -> list[float]:
            asked[0] += 1
            return [len(text) / asked[0] for text in samples.responses]

        return score


@dataclass(frozen=True)
class LeavesSilence(Environment):
    """Says nothing to an empty response, not even that the conversation ends."""

    def build(self, run: Run) -> Callable[[Samples], Sequence[str | None]]:
        return lambda samples: [" why?" for text in samples.responses if text]


@dataclass(frozen=True)
class Unbuilt(Generator):
    """Answers nothing."""

    def build(self, run: Run) -> Any:
        return None


@dataclass(frozen=True)
class Unshuffled(DataFormat):
    """A format with a flag that nothing reads."""

    shuffled_twice: bool = True

    def load(self, base: Base, seed: int) -> Data:
        return Data((), (), {})


@dataclass(frozen=True)
class Uncounted(DataStep):
    """Leaves out a row without a word."""

    def __call__(self, data: Data, seed: int) -> Data:
        return replace(data, train=data.train[1:])


@dataclass(frozen=True)
class Favourite(Selector):
    """Ranks the algorithm that it likes, and forgets the others."""

    def __call__(self, situation: Situation) -> list[Choice]:
        return [Choice(situation.algorithms[0])]


@dataclass(frozen=True)
class NeverResumed(Stage):
    """A stage with a flag that nothing reads."""

    name: ClassVar[str] = "never"
    resume_from_best: bool = False

    def run(self, run: Run) -> StageResult:
        return StageResult()


@dataclass(frozen=True)
class Silent(Stage):
    """A stage that keeps what it made."""

    name: str = "silent"

    def run(self, run: Run) -> Any:
        StageResult(metrics={"rows": len(run.data.train)})
