"""The monitors that explain: length, repetition, entropy, variance, disagreement, features, boilerplate. None halts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field

from rlhf_plugins import Run, Step, hookimpl
from rlhf_watch.alarms import signals
from rlhf_watch.alarms.departures import Away, Level
from rlhf_watch.alarms.watched import Watched, Watching

REFUSALS = ("i cannot", "i can't", "i'm sorry", "i am sorry", "as an ai", "i'm unable", "i am unable")


@dataclass(frozen=True)
class Drifting(Watched):
    """A number of each rollout, as max(0, s log(v / v_0)) over the mean v_0 of the first ones, smoothed."""

    sign: ClassVar[float] = 1.0
    says: ClassVar[str] = ""

    warm_up: Annotated[int, Field(ge=2, description="rollouts that are taken as the start")] = 10

    def build(self, run: Run) -> Watching:
        """It remembers the mean of the first rollouts."""
        return self.watching(run, Level(self.sign, self.warm_up), self.reader())

    def watching(self, run: Run, level: Level, read: Callable[[Step], float | None]) -> Watching:
        """A level of what is read."""

        def add(step: Step) -> bool:
            value = read(step)
            if value is not None:
                level.add(value)
            return value is not None

        return Watching(self, run, level, add, self.worst, self.says)

    def reader(self) -> Callable[[Step], float | None]:
        """What it reads of a rollout."""
        raise NotImplementedError

    def worst(self, step: Step) -> Sequence[int]:
        """The places of the responses at fault, the worst first."""
        return ()


@dataclass(frozen=True)
class LengthDrift(Drifting):
    """Responses grow longer: an exploited bias for length, or a good reason."""

    says: ClassVar[str] = "log ratio of tokens per response to the start's"

    def reader(self) -> Callable[[Step], float | None]:
        """Tokens."""
        return signals.length

    def worst(self, step: Step) -> Sequence[int]:
        """The longest."""
        return _sorted(step.responses.get("tokens", ()))[::-1]


@dataclass(frozen=True)
class Repetition(Drifting):
    """Responses repeat themselves: the share of three-word sequences that they have had already."""

    says: ClassVar[str] = "log ratio of the share of repeated word sequences to the start's"

    def reader(self) -> Callable[[Step], float | None]:
        """A share."""
        return signals.repetition

    def worst(self, step: Step) -> Sequence[int]:
        """The places of the responses by their share of repeated word sequences, the largest first."""
        return _sorted([signals.repeated(text) for text in step.samples.responses] if step.samples else ())[::-1]


@dataclass(frozen=True)
class EntropyCollapse(Drifting):
    """The policy's entropy per token falls: it explores less and less."""

    sign: ClassVar[float] = -1.0
    says: ClassVar[str] = "log ratio of the start's entropy to now's"

    def reader(self) -> Callable[[Step], float | None]:
        """Nats per token."""
        return signals.entropy

    def worst(self, step: Step) -> Sequence[int]:
        """The places of the responses by their entropy, the least first."""
        return _sorted(step.responses.get("entropy", ()))


@dataclass(frozen=True)
class RewardVarianceCollapse(Drifting):
    """All responses come to have the same reward: saturated, or all alike."""

    sign: ClassVar[float] = -1.0
    says: ClassVar[str] = "log ratio of the start's deviation of rewards to now's"

    def reader(self) -> Callable[[Step], float | None]:
        """The deviation of the rewards."""
        return signals.reward_deviation


@dataclass(frozen=True)
class Disagreement(Drifting):
    """The members of a reward ensemble come to disagree: the policy is where none of them was trained."""

    says: ClassVar[str] = "log ratio of the members' disagreement to the start's"

    def reader(self) -> Callable[[Step], float | None]:
        """The deviation of the members."""
        return signals.disagreement

    def worst(self, step: Step) -> Sequence[int]:
        """The places of the responses by the deviation of the members' rewards, the largest first."""
        members = None if step.prediction is None else step.prediction.members
        return [] if members is None else _sorted(members.float().std(1).tolist())[::-1]


@dataclass(frozen=True)
class Boilerplate(Drifting):
    """Responses refuse, or open as responses to other prompts do."""

    says: ClassVar[str] = "log ratio of the share of boilerplate to the start's"

    phrases: Annotated[list[str], Field(description="that mark a refusal, in lower case")] = field(
        default_factory=lambda: list(REFUSALS)
    )

    def reader(self) -> Callable[[Step], float | None]:
        """A share."""
        return lambda step: signals.boilerplate(step, self.phrases)

    def worst(self, step: Step) -> Sequence[int]:
        """The places of the responses that are boilerplate, in their order."""
        return [place for place, found in enumerate(signals.stock(step, self.phrases)) if found]


@dataclass(frozen=True)
class FeatureDrift(Drifting):
    """The reward model's features of the responses move away from those of the first rollout.

    sqrt(mean over features of (mean now - mean at first)^2 / variance at first).
    """

    says: ClassVar[str] = "log ratio of the features' distance from the first rollout to the start's"

    def build(self, run: Run) -> Watching:
        """It remembers the moments of the first rollout that has features."""
        away = Away(warm_up=self.warm_up)

        def read(step: Step) -> float | None:
            features = None if step.prediction is None else step.prediction.features
            return None if features is None else away.distance(features.double().cpu().numpy())

        return self.watching(run, away, read)


def _sorted(values: Sequence[float]) -> list[int]:
    """Places, that with the smallest value first."""
    return sorted(range(len(values)), key=lambda place: values[place])


@hookimpl
def register_monitor() -> dict[str, Any]:
    """The monitors of this file."""
    return {
        "boilerplate": Boilerplate,
        "disagreement": Disagreement,
        "entropy_collapse": EntropyCollapse,
        "feature_drift": FeatureDrift,
        "length_drift": LengthDrift,
        "repetition": Repetition,
        "reward_variance_collapse": RewardVarianceCollapse,
    }
